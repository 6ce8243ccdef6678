"""Kinds and columns are defined once; these tests hold the published ones."""

from storyreason.format import kinds, tables
from storyreason.format.boxes import Box
from storyreason.format.kinds import KINDS, kind_of, kinds_in, sort_key
from storyreason.format.tables import CHARACTERS, NARRATIVE, OBJECTS, TABLES, Character


def test_an_id_says_its_kind_or_none() -> None:
    assert [kind_of(id) for id in ("char1", "obj22", "lm3", "bg4", "lm")] == ["char", "obj", "lm", "bg", "lm"]
    assert [kind_of(id) for id in ("Sarah", "chars1", "char1a", "", "12", "char\u0661")] == [None] * 6


def test_each_kind_stands_in_one_table() -> None:
    assert {table: kinds_in(table) for table in ("characters", "objects", "settings", "phases")} == {
        "characters": ("char",),
        "objects": ("obj", "lm", "bg"),
        "settings": (),
        "phases": (),
    }
    assert [kind.tag for kind in KINDS.values()] == ["gdo", "gdo", "gdl", "gdl"]


def test_ids_sort_as_people_read_them() -> None:
    ids = ["who", "bg1", "lm1", "obj10", "obj9", "char10", "char2", "char" + "9" * 5000]
    assert sorted(ids, key=sort_key) == ["char2", "char10", ids[-1], "obj9", "obj10", "lm1", "bg1", "who"]


def test_columns_and_fields_of_a_row_are_in_one_order() -> None:
    assert dict(zip(OBJECTS.columns, OBJECTS.fields, strict=True)) == {
        "Object ID": "id",
        "Description": "description",
        "Function": "purpose",
        "Interaction": "interaction",
        "Narrative Function": "function",
        "Bounding Box": "box",
    }
    assert [len(table.columns) for table in TABLES] == [7, 6, 5, 4]
    assert (CHARACTERS.place("box"), OBJECTS.place("box"), NARRATIVE.place("images")) == (6, 5, 3)
    assert OBJECTS.columns[-1] == tables.BOX_COLUMN


def test_cells_make_a_row_and_a_row_its_cells() -> None:
    cells = ["char1", "Sarah", "A woman", "Calm", "Waiting", "Protagonist", "1,2,3,4"]
    row = CHARACTERS.build(cells, 7)
    assert row == Character("char1", "Sarah", "A woman", "Calm", "Waiting", "Protagonist", Box(1, 2, 3, 4), line=7)
    assert CHARACTERS.cells(row) == cells
    phase = NARRATIVE.build(["conflict", "It rains", "Rain", "2-4"], 1)
    assert (phase.name, phase.images, NARRATIVE.cells(phase)[-1]) == ("Conflict", (2, 3, 4), "2-4")


def test_the_pattern_of_ids_is_made_from_the_kinds() -> None:
    assert kinds.ID == "(char|obj|lm|bg)[0-9]{1,9}"

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storyreason.format import analysis
from storyreason.format.analysis import Analysis, Section
from storyreason.format.boxes import Box
from storyreason.format.tables import PHASES, SETTING_ELEMENTS, Character, Object, Phase, Setting

GOLDEN = Path(__file__).parents[2] / "golden" / "paper_protocol.json"
TEXTS = [story["chain_of_thought"] for story in json.loads(GOLDEN.read_text())["stories"]]

# Any line of text without spaces around it is a cell: pipes, backslashes, dashes, other scripts, nothing at all.
cells = st.one_of(
    st.sampled_from(["", "-", "---", ":", "|", "\\", "\\|", "a|b", "## Image 2", "Character ID", "<gdo char1>"]),
    st.text(st.characters(blacklist_characters="\n", blacklist_categories=["Cs"]), max_size=12).map(str.strip),
)
box_pairs = st.one_of(
    st.builds(lambda *corners: (Box(*corners), ""), *[st.integers(-99, 2000)] * 4),
    st.sampled_from([(None, ""), (None, "-"), (None, "1,2,3"), (None, "a|b")]),
)
characters = st.builds(lambda c, b: Character(*c, *b), st.tuples(*[cells] * 6), box_pairs)
objects = st.builds(lambda c, b: Object(*c, *b), st.tuples(*[cells] * 5), box_pairs)
settings_ = st.builds(Setting, st.sampled_from(SETTING_ELEMENTS) | st.just("Mood"), cells, cells, cells, cells)
images = st.lists(st.integers(1, 22), max_size=5, unique=True).map(tuple)
phases = st.builds(Phase, st.sampled_from(PHASES) | st.just("Epilogue"), cells, cells, images)
sections = st.builds(
    Section,
    st.integers(1, 22),
    st.lists(characters, max_size=3).map(tuple),
    st.lists(objects, max_size=3).map(tuple),
    st.lists(settings_, max_size=3).map(tuple),
)
analyses = st.builds(Analysis, st.lists(sections, max_size=4).map(tuple), st.lists(phases, max_size=5).map(tuple))


@given(analyses)
def test_reading_what_was_rendered_gives_the_same(written: Analysis) -> None:
    read, problems = analysis.read(analysis.render(written))
    assert read == written
    assert {problem.rule for problem in problems} <= {"box-unreadable"}


@pytest.mark.parametrize("text", TEXTS[:10])
def test_a_golden_text_reads_without_loss(text: str) -> None:
    read, problems = analysis.read(text)

    assert not problems
    rows = [
        line
        for line in text.split("\n")
        if line.startswith("| ") and not line.endswith((" Box |", " Function |", " Images |"))
    ]
    again = [line for line in analysis.render(read).split("\n") if line.startswith("| ")]
    assert [line for line in again if line in set(rows)] == rows


def test_the_published_headings_and_columns_are_written() -> None:
    sarah = Character("char1", "Sarah", "A woman", "Curiosity", "Looking", "Protagonist", Box(13, 69, 150, 239))
    tie = Object("obj1", "Tie", "Accessory", "Worn", "Establishes", Box(294, 135, 318, 185))
    place = Setting("Location", "A warehouse", "Tense", "Night", "Establishes")

    text = analysis.render(
        Analysis((Section(1, (sarah,), (tie,), (place,)),), (Phase("Introduction", "a", "b", (1, 2)),))
    )

    assert (
        text
        == """\
## Image 1

### Characters
| Character ID | Name | Description | Emotions | Actions | Narrative Function | Bounding Box |
|--------------|------|-------------|----------|---------|-------------------|--------------|
| char1 | Sarah | A woman | Curiosity | Looking | Protagonist | 13,69,150,239 |

### Objects
| Object ID | Description | Function | Interaction | Narrative Function | Bounding Box |
|-----------|-------------|----------|------------|-------------------|--------------|
| obj1 | Tie | Accessory | Worn | Establishes | 294,135,318,185 |

### Setting
| Setting Element | Description | Mood | Time | Narrative Function |
|-----------------|-------------|------|------|-------------------|
| Location | A warehouse | Tense | Night | Establishes |

## Narrative Structure

| Narrative Phase | Description | Key Events | Images |
|-----------------|-------------|-----------|--------|
| Introduction | a | b | 1, 2 |"""
    )


TOLERATED = {
    "Windows line ends": lambda text: text.replace("\n", "\r\n"),
    "trailing spaces": lambda text: text.replace("\n", "  \n"),
    "leading spaces": lambda text: text.replace("\n|", "\n  |"),
    "no blank lines": lambda text: text.replace("\n\n", "\n").replace("\n\n", "\n"),
    "many blank lines": lambda text: text.replace("\n", "\n\n"),
    "ragged separators": lambda text: text.replace("|---|---|", "|:-| ----- |", 3).replace("---|\n", "-:\n"),
    "no last pipe": lambda text: text.replace(" |\n", "\n"),
    "headings in another case": lambda text: text.replace("### Characters", "### CHARACTERS").replace("Image", "IMAGE"),
    "headings with colons": lambda text: text.replace("### Objects", "###Objects:").replace("# Image", "#Image"),
    "enum values in another case": lambda text: text.replace("| Location", "| LOCATION").replace("Turning", "turning"),
    "headings of tables left out": lambda text: text.replace("### Characters\n", "").replace("### Objects\n", ""),
}  # fmt: skip


@pytest.mark.parametrize("change", TOLERATED)
def test_published_data_is_read_with_its_irregularities(change: str) -> None:
    for text in TEXTS[:5]:
        changed = TOLERATED[change](text)
        assert changed != text
        assert analysis.read(changed) == analysis.read(text)


def test_a_row_with_a_missing_or_a_surplus_cell_is_told_and_passed_over() -> None:
    text = analysis.render(Analysis((Section(3, settings=(Setting("Weather", "Rain", "Sad", "-", "-"),)),)))

    read, problems = analysis.read(f"{text}\n| Lighting | dim | cold |\n| Location | a | b | c | d | e |")

    assert read.sections[0].settings == (Setting("Weather", "Rain", "Sad", "-", "-"),)
    assert [(p.rule, p.line, p.column, p.image) for p in problems] == [
        ("table-shape", 7, 3, 3),
        ("table-shape", 8, 3, 3),
    ]
    assert "3 cells" in problems[0].message and "have 5" in problems[0].message


def test_a_box_that_does_not_parse_is_told_with_its_place_and_kept() -> None:
    text = analysis.render(Analysis((Section(1, (Character("char1", "A", "b", "c", "d", "e", None, "1,2,x,4"),)),)))

    (section,), (problem,) = analysis.read(text)[0].sections, analysis.read(text)[1]

    assert section.characters[0].box is None and section.characters[0].box_text == "1,2,x,4"
    assert problem.rule == "box-unreadable"
    assert text.split("\n")[problem.line - 1][problem.column - 1 :] == "1,2,x,4 |"


@pytest.mark.parametrize(
    ("written", "images"),
    [
        ("1", (1,)),
        ("2-4", (2, 3, 4)),
        ("1, 3", (1, 3)),
        ("Images 1 and 2", (1, 2)),
        ("2–3, 5", (2, 3, 5)),
        ("-", ()),
        ("all", ()),
    ],
)
def test_images_of_a_phase(written: str, images: tuple[int, ...]) -> None:
    text = analysis.render(Analysis((), (Phase("Conclusion", "a", "b", (), written),)))
    assert analysis.read(text)[0].phases[0].images == images
    assert analysis.render(analysis.read(text)[0]) == text


def test_other_text_is_told() -> None:
    read, problems = analysis.read("Let me see.\n## Image 1\n### Smells\n| char1 | a |\n")
    assert read == Analysis((Section(1),))
    assert [(p.rule, p.line) for p in problems] == [("analysis-text", 1), ("analysis-text", 3), ("table-shape", 4)]


def test_a_table_with_other_columns_is_told() -> None:
    _, problems = analysis.read("## Image 1\n### Objects\n| Object ID | Bounding Box |\n|---|---|\n")
    assert [(p.rule, p.line) for p in problems] == [("table-shape", 3)]


def test_rows_and_sections_know_their_lines() -> None:
    read, _ = analysis.read(TEXTS[0])
    lines = TEXTS[0].split("\n")
    for section in read.sections:
        assert lines[section.line - 1] == f"## Image {section.image}"
        for row in section.entities:
            assert lines[row.line - 1].startswith(f"| {row.id} |")

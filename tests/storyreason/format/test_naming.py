"""What counts as a name, and whether it is the entity's own."""

import pytest

from storyreason.format import analysis, story
from storyreason.format.naming import Naming, mentions

TABLES = """\
## Image 1

### Characters
| Character ID | Name | Description | Emotions | Actions | Narrative Function | Bounding Box |
|---|---|---|---|---|---|---|
| char1 | Sarah Moor | A woman in a Navy uniform | Calm | Waiting | Protagonist | 10,10,30,50 |
| char2 | - | A man and his daughter | Calm | Waiting | Protagonist | 60,10,80,50 |

### Objects
| Object ID | Description | Function | Interaction | Narrative Function | Bounding Box |
|---|---|---|---|---|---|
| lm1 | The Eiffel Tower | Landmark | None | Context | 0,0,100,80 |
| obj1 | A tie worn by Tom | Clothes | None | Context | 0,0,100,80 |

## Image 2

### Characters
| Character ID | Name | Description | Emotions | Actions | Narrative Function | Bounding Box |
|---|---|---|---|---|---|---|
| char1 | Sarah  MOOR | A tired person | Calm | Waiting | Protagonist | 10,10,30,50 |
| char2 | Tom | A boy | Calm | Waiting | Protagonist | 60,10,80,50 |

## Image 3

### Characters
| Character ID | Name | Description | Emotions | Actions | Narrative Function | Bounding Box |
|---|---|---|---|---|---|---|
| char1 | Anna | A woman | Calm | Waiting | Protagonist | 10,10,30,50 |
| char2 | Unknown | A girl | Calm | Waiting | Protagonist | 60,10,80,50 |
"""
SECTIONS = analysis.read(TABLES)[0].sections


@pytest.mark.parametrize(
    ("passage", "called", "foreign"),
    [
        ("<gdo char1>Sarah</gdo>", ["Sarah"], []),
        ("<gdo char1>Leo</gdo>", ["Leo"], ["Leo"]),  # the first word, but a mention of a person that is nothing else
        ("<gdo char1>Leo, a woman in blue,</gdo>", ["Leo"], ["Leo"]),
        ("<gdo char1>Tired sailors</gdo>", [], []),
        ("then <gdo char1>tired Sailors</gdo>", ["Sailors"], ["Sailors"]),
        ("then <gdo char1>The woman</gdo>", [], []),
        ("<gdo char1>She</gdo>", [], []),
        ("<gdo char1>Navy woman</gdo>", [], []),
        ("then <gdo char1>the Navy woman on TV</gdo>", ["Navy"], []),
        ("<gdo char1 char2>Sarah and Tom</gdo>", ["Sarah", "Tom"], []),
        ("<gdo char1>Sarah and Tom</gdo>", ["Sarah", "Tom"], ["Tom"]),
        ("<gdo char7>Tom</gdo>", ["Tom"], ["Tom"]),
        ("then <gdo obj1>Sarah's tie</gdo>", [], []),
        ("<gdo obj1>Silk</gdo>", [], []),
        ("then <gdo obj1>Silk</gdo>", ["Silk"], ["Silk"]),
        ("It shone. <gdo obj1>Silk</gdo>", [], []),
        ('"It shone!" <gdo obj1>Silk</gdo>', [], []),
        ("<gdo obj1>Anna</gdo>", ["Anna"], ["Anna"]),
        ("at <gdl lm1>the Eiffel Tower</gdl>", ["Eiffel", "Tower"], []),
        ("at <gdl lm1>Big Ben</gdl>", ["Big", "Ben"], ["Big", "Ben"]),
        ("<gda char1>Tom</gda>", [], []),
        ("<gdo>Tom</gdo>", ["Tom"], ["Tom"]),
    ],
)
def test_the_names_in_a_mention(passage: str, called: list[str], foreign: list[str]) -> None:
    naming = Naming(SECTIONS)
    (read,) = story.read(f"<gdi image1>\n{passage} stood.\n</gdi>")[0].passages
    ((mention, before),) = mentions(read)

    assert naming.called(mention, before) == called
    assert naming.foreign(mention, called) == foreign


def test_another_name_than_in_an_earlier_image_is_a_change_and_a_first_name_is_none() -> None:
    naming = Naming(SECTIONS)

    assert [(change.row.id, change.row.name, change.before) for change in naming.changes] == [
        ("char1", "Anna", "Sarah Moor")
    ]
    assert naming.images == {"char1": {1, 2, 3}, "char2": {2}}


def test_a_gender_is_what_the_first_word_of_a_description_that_states_one_says() -> None:
    assert Naming(SECTIONS).gender == {"char1": "she", "char2": None}, "char2 is a man, a boy and a girl"
    assert Naming(SECTIONS[:2]).gender["char2"] == "he"

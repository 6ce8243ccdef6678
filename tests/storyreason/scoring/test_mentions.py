"""References: every kind of fault of a tag, in stories short enough to count by eye."""

from storyreason.format import analysis, story
from storyreason.scoring import mentions
from storyreason.scoring.catalogue import FAULTS
from storyreason.scoring.matching import entity_boxes, pairs

TABLES = """\
## Image 1

### Characters
| Character ID | Name | Description | Emotions | Actions | Narrative Function | Bounding Box |
|---|---|---|---|---|---|---|
| char1 | Sarah | A woman | Calm | Waiting | Protagonist | 10,10,30,50 |
| char2 | Tom | A man | Calm | Waiting | Protagonist | 60,10,80,50 |

### Objects
| Object ID | Description | Function | Interaction | Narrative Function | Bounding Box |
|---|---|---|---|---|---|
| bg1 | A wall | Background | None | Context | 0,0,100,80 |

## Image 2

### Characters
| Character ID | Name | Description | Emotions | Actions | Narrative Function | Bounding Box |
|---|---|---|---|---|---|---|
| char1 | Sarah | A woman | Calm | Waiting | Protagonist | 10,10,30,50 |
"""


def count(text: str, truth: str = TABLES) -> dict[str, float]:
    """The faults of a story whose analysis is TABLES, where `truth` says what is really there."""
    sizes = ((100, 80), (100, 80))
    claimed, _ = analysis.read(TABLES)
    rows = entity_boxes(claimed, sizes)
    matched = pairs(entity_boxes(analysis.read(truth)[0], sizes), rows)
    counts = mentions.count(claimed, story.read(text)[0], rows, matched)
    return {name.removeprefix("references/"): value for name, value in counts.items()}


def faults(text: str, truth: str = TABLES) -> dict[str, float]:
    counts = count(text, truth)
    return {fault: counts[fault] for fault in (*FAULTS, "hallucinations") if counts[fault]}


def test_a_well_grounded_story_has_no_fault() -> None:
    text = (
        "<gdi image1>\n<gdo char1>Sarah</gdo> <gda char1>saw</gda> <gdo char2>Tom</gdo> at <gdl bg1>the wall</gdl>. "
        "<gdo char1 char2>They</gdo> <gda char1 char2>waited</gda>.\n</gdi>\n<gdi image2>\n<gdo char1>She</gdo> "
        "<gda char1>left</gda>.\n</gdi>"
    )
    assert faults(text) == {}
    assert count(text)["mentions"] == 8


def test_an_unknown_id_and_an_id_of_another_image() -> None:
    text = "<gdi image2>\n<gdo char7>A stranger</gdo> met <gdo char1 char2>them</gdo>.\n</gdi>"

    assert faults(text) == {"unknown": 1, "absent": 1, "hallucinations": 2}


def test_a_mention_whose_box_matches_nothing() -> None:
    # given: in truth, Tom stands somewhere else
    truth = TABLES.replace("60,10,80,50", "40,60,60,79")

    assert faults("<gdi image1>\n<gdo char1 char2>They</gdo> stood.\n</gdi>", truth) == {
        "phantom": 1,
        "hallucinations": 1,
    }


def test_an_action_without_an_actor() -> None:
    text = "<gdi image1>\n<gda>Someone ran</gda>, <gda bg1>it stood</gda>, <gda char1>she came</gda>.\n</gdi>"

    assert faults(text) == {"no_actor": 2, "hallucinations": 2}


def test_tags_of_the_wrong_kind_are_not_hallucinations() -> None:
    text = "<gdi image1>\n<gdo bg1>The wall</gdo>, <gdl char1>Sarah</gdl>, <gdl bg1>the wall</gdl>.\n</gdi>"

    assert faults(text) == {"wrong_tag": 2}


def test_pronouns_and_names_by_whether_they_are_tagged() -> None:
    text = (
        "<gdi image1>\n<gdo char1>She</gdo> saw him and Tom. I waited, for <gdo char1>her</gdo> <gda char1>hand</gda> "
        "<gda char1>held his</gda>.\n</gdi>"
    )
    counts = count(text)

    assert (counts["pronouns/she"], counts["pronouns/she/grounded"]) == (2, 2)
    assert (counts["pronouns/he"], counts["pronouns/he/grounded"]) == (1, 0)  # "his" is part of an action
    assert (counts["pronouns/I"], counts["pronouns/I/grounded"]) == (1, 0)
    assert (counts["untagged_pronoun"], counts["untagged_name"]) == (2, 1)
    assert (counts["pronouns"], counts["pronouns/grounded"]) == (4, 2)

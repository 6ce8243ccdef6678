"""Names: counts of stories short enough to count by eye, and references that score 1."""

import pytest

from storyreason import dataset
from storyreason.format import analysis, answer, story
from storyreason.scoring import Reference, names, score

TABLES = """\
## Image {}

### Characters
| Character ID | Name | Description | Emotions | Actions | Narrative Function | Bounding Box |
|---|---|---|---|---|---|---|
| char1 | Sarah | A woman | Calm | Waiting | Protagonist | 10,10,30,50 |
| char2 | {} | A man | Calm | Waiting | Protagonist | 60,10,80,50 |

### Objects
| Object ID | Description | Function | Interaction | Narrative Function | Bounding Box |
|---|---|---|---|---|---|
| lm1 | The Tor | Landmark | None | Context | 0,0,100,80 |
"""


def test_names_that_agree_people_with_one_name_and_pronouns_that_fit() -> None:
    read, _ = analysis.read(TABLES.format(1, "Tom") + "\n" + TABLES.format(2, "Leo"))
    told, _ = story.read(
        "<gdi image1>\n<gdo char1>Sarah</gdo> <gda char1>met</gda> <gdo char2>Max</gdo> at <gdl lm1>the Tor</gdl>. "
        "<gdo char1>She</gdo> saw <gdo char2>her</gdo>, <gdo char1 char2>he</gdo>, <gdo char2>his own</gdo>.\n</gdi>\n"
        "<gdi image2>\n<gdo char1>Tom</gdo> saw <gdl lm1>Paris</gdl>.\n</gdi>"
    )

    found = {name.removeprefix("names/"): value for name, value in names.count(read, told).items() if value}

    assert found == {
        "entities": 2, "one": 1, "mentions": 5, "agree": 2, "char/mentions": 3, "char/agree": 1, "lm/mentions": 2,
        "lm/agree": 1, "pronouns": 2, "pronouns/agree": 1,
    }  # fmt: skip


def test_the_references_of_the_sample_score_one(examples: list[dataset.Example]) -> None:
    references = [Reference.of(example) for example in examples]
    told = {one.story_id: answer.join(one.chain_of_thought, one.story) for one in examples}

    metrics = score(references, told, grounded=True).metrics()

    assert metrics["strict/validity/valid"] == 1
    for name in ("one", "agree", "agree/char", "pronouns"):
        assert metrics[f"strict/names/{name}"] == 1, name


@pytest.mark.parametrize(("grounded", "valid"), [(False, 1), (True, 0)])
def test_another_name_is_an_error_in_a_grounded_answer_alone(
    examples: list[dataset.Example], grounded: bool, valid: int
) -> None:
    example = examples[0]
    name = analysis.read(example.chain_of_thought)[0].sections[0].characters[0].name
    told = answer.join(example.chain_of_thought.replace(f"| {name} |", "| Zed |", 1), example.story)

    metrics = score([Reference.of(example)], {example.story_id: told}, grounded=grounded).metrics()

    assert metrics["strict/validity/valid"] == valid

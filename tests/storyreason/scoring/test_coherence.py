"""Coherence: counts of stories short enough to count by eye, and what a planted fault does to the sample's references."""

import pytest

from storyreason import dataset
from storyreason.format import analysis, answer, story
from storyreason.scoring import Reference, coherence, score

TABLES = """\
## Image {}

### Characters
| Character ID | Name | Description | Emotions | Actions | Narrative Function | Bounding Box |
|---|---|---|---|---|---|---|
| char1 | Sarah | A woman | Calm | Waiting | Protagonist | 10,10,30,50 |

### Objects
| Object ID | Description | Function | Interaction | Narrative Function | Bounding Box |
|---|---|---|---|---|---|
| obj1 | A bag | Luggage | None | Context | 0,0,100,80 |
"""
PHASES = """\
## Narrative Structure

| Narrative Phase | Description | Key Events | Images |
|---|---|---|---|
| Introduction | - | - | 1 |
| Development | - | - | 1, 2 |
| Conflict | - | - | 3 |
| Turning Point | - | - | 2 |
| Conclusion | - | - | 4 |
"""


def test_counts_of_a_story_of_four_frames() -> None:
    read, _ = analysis.read("\n".join(TABLES.format(image) for image in range(1, 5)) + "\n" + PHASES)
    told, _ = story.read(
        "<gdi image1>\n<gdo char1>Sarah</gdo> takes <gdo obj1>the bag</gdo>.\n</gdi>\n"
        "<gdi image2>\n<gdo char1>She</gdo> waits for <gdo char3>him</gdo>, "
        "<gdo char1>she</gdo> waits for <gdo char3>him</gdo>.\n</gdi>\n"
        "<gdi image3>\nNothing moves.\n</gdi>\n"
        "<gdi image4>\n<gdo obj1>It</gdo> is gone, and so is <gdo char2>Tom</gdo>.\n</gdi>"
    )
    found = coherence.count(read, story.Story(), read, told, frames=4)

    of_answer = {name.removeprefix("coherence/"): value for name, value in found.items() if "/reference/" not in name}
    assert of_answer == {
        "frames": 4, "transitions": 3, "continued": 1,  # 1 and 2 share char1
        "graph": 1 + 1 / 3,  # and 1 and 4 share obj1
        "chains": 4, "chains/links": 8, "chains/across": 2,
        "present": 8, "present/told": 4, "present/char": 4, "present/char/told": 2,
        "phase_pairs": 10, "phase_pairs/ordered": 9,  # the turning point comes before the conflict
        "runs": 18, "repeated_runs": 1,
    }  # fmt: skip
    assert found["coherence/reference/continued"] == found["coherence/reference/chains"] == 0
    assert found["coherence/reference/phase_pairs/ordered"] == 9


def test_silence_is_not_coherent(examples: list[dataset.Example]) -> None:
    references = [Reference.of(example) for example in examples]

    metrics = score(references, {}).metrics()

    assert metrics["strict/coherence/continuity"] == metrics["strict/coherence/entity_graph"] == 0
    assert metrics["strict/coherence/phases_in_order"] == 0
    for undefined in ("repetition", "mentions_per_chain", "told_where_present"):
        assert f"strict/coherence/{undefined}" not in metrics


@pytest.fixture(scope="module")
def perfect(examples: list[dataset.Example]) -> dict[str, float]:
    return _metrics(examples, {one.story_id: one.story for one in examples})


def _metrics(examples: list[dataset.Example], stories: dict[str, str]) -> dict[str, float]:
    references = [Reference.of(example) for example in examples]
    told = {one.story_id: answer.join(one.chain_of_thought, stories[one.story_id]) for one in examples}
    return score(references, told).metrics()


def test_a_reference_is_as_coherent_as_itself(perfect: dict[str, float]) -> None:
    of_reference = {name: value for name, value in perfect.items() if name.startswith("strict/coherence/reference_")}

    assert of_reference
    for name, value in of_reference.items():
        assert perfect[name.replace("reference_", "", 1)] == value, name
    assert perfect["strict/coherence/phases_in_order"] == 1


def test_a_new_id_in_every_frame_breaks_all_chains(examples: list[dataset.Example], perfect: dict[str, float]) -> None:
    def renamed(text: str) -> str:
        read, _ = story.read(text)
        passages = []
        for passage in read.passages:
            parts = [
                story.Mention(part.kind, tuple(f"{id}{passage.image}" for id in part.ids), part.text)
                if isinstance(part, story.Mention)
                else part
                for part in passage.parts
            ]
            passages.append(story.Passage(passage.image, tuple(parts)))
        return story.render(story.Story(tuple(passages)))

    metrics = _metrics(examples, {one.story_id: renamed(one.story) for one in examples})

    assert metrics["strict/coherence/continuity"] == metrics["strict/coherence/entity_graph"] == 0
    assert metrics["strict/coherence/chains_across_frames"] == 0
    assert perfect["strict/coherence/continuity"] > 0.8
    assert metrics["strict/coherence/repetition"] == perfect["strict/coherence/repetition"]


def test_a_passage_told_twice_is_repetition(examples: list[dataset.Example], perfect: dict[str, float]) -> None:
    def twice(text: str) -> str:
        read, _ = story.read(text)
        return story.render(
            story.Story(tuple(story.Passage(one.image, (*one.parts, " ", *one.parts)) for one in read.passages))
        )

    metrics = _metrics(examples, {one.story_id: twice(one.story) for one in examples})

    assert metrics["strict/coherence/repetition"] > perfect["strict/coherence/repetition"] + 0.3

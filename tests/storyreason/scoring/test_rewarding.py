"""Rewards: an honest answer with faults, and what tries to be rewarded without being one."""

import importlib.util
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from storyreason import dataset, sample
from storyreason.config import load
from storyreason.format import analysis, answer, grids, story
from storyreason.format.analysis import Analysis, Section
from storyreason.format.boxes import Box
from storyreason.format.story import Mention, Passage, Story
from storyreason.format.tables import Character, Object
from storyreason.scoring import Reference, length, reward, rewards, score
from storyreason.scoring.config import RewardConfig

DOCS = Path(__file__).parents[3] / "docs" / "scores.md"
Rows = tuple[tuple[Character, ...], tuple[Object, ...]]
Told = tuple[Analysis, Story]


@pytest.fixture(scope="module")
def stories() -> list[dataset.Example]:
    return list(sample.examples("test", films=12))


def read(example: dataset.Example) -> Told:
    return analysis.read(example.chain_of_thought)[0], story.read(example.story)[0]


def each(told: Analysis, change: Callable[[Section], Rows]) -> Analysis:
    """An analysis with the rows of each image changed."""
    sections = []
    for section in told.sections:
        characters, objects = change(section)
        sections.append(replace(section, characters=characters, objects=objects))
    return replace(told, sections=tuple(sections))


def honest(example: dataset.Example) -> Told:
    """A model that looks and errs: every box is off by up to a sixth of its size, one row in six is missed, one ID in ten is
    another one's. Its story is the reference's, so that it mentions what it has missed."""
    dice = random.Random(example.story_id)
    told, text = read(example)

    def err(section: Section) -> Rows:
        rows = [
            replace(row, box=off(row.box, dice), id=row.id if dice.random() > 0.1 else f"{row.id}9")
            for row in section.entities
            if dice.random() > 1 / 6
        ]
        return split(rows)

    return each(told, err), text


def split(rows: list[Character | Object]) -> Rows:
    return tuple(row for row in rows if isinstance(row, Character)), tuple(
        row for row in rows if isinstance(row, Object)
    )


def off(box: Box | None, dice: random.Random) -> Box:
    assert box
    w, h = (box.x2 - box.x1) // 6, (box.y2 - box.y1) // 6
    x, y = dice.randint(-w, w), dice.randint(-h, h)
    left, top = max(0, box.x1 + x), max(0, box.y1 + y)
    return Box(left, top, max(left + 1, box.x2 + x), max(top + 1, box.y2 + y))


def silence(told: Told, stories: list[dataset.Example]) -> str:
    return ""


def nothing_seen(told: Told, stories: list[dataset.Example]) -> str:
    """All headings, and a story without a tag."""
    passages = tuple(
        Passage(section.image, ("It was a quiet day, and nothing moved.",)) for section in told[0].sections
    )
    return answer.render(each(told[0], lambda section: ((), ())), Story(passages))


def one_row_a_frame(told: Told, stories: list[dataset.Example]) -> str:
    kept = {(section.image, row.id) for section in told[0].sections for row in section.entities[:1]}
    rows = each(told[0], lambda section: split(list(section.entities[:1])))
    return answer.render(rows, mentioning(told[1], kept))


def mentioning(text: Story, kept: set[tuple[int, str]]) -> Story:
    """A story whose other mentions are plain text."""
    return Story(
        tuple(
            Passage(
                passage.image,
                tuple(
                    part.text
                    if isinstance(part, Mention) and not {(passage.image, id) for id in part.ids} <= kept
                    else part
                    for part in passage.parts
                ),
            )
            for passage in text.passages
        )
    )


def one_sure_mention(told: Told, stories: list[dataset.Example]) -> str:
    """No tag that could be wrong, but one."""
    first = told[0].sections[0].entities[:1]
    return answer.render(told[0], mentioning(told[1], {(told[0].sections[0].image, row.id) for row in first}))


def statistics_copied(told: Told, stories: list[dataset.Example]) -> str:
    """The mean box of each ID of the data in every frame, and one of its stories, whatever the frames show."""
    boxes: dict[str, list[Box]] = {}
    for example in stories:
        for section in read(example)[0].sections:
            for row in section.entities:
                boxes.setdefault(row.id, []).append(row.box or Box(0, 0, 1, 1))
    mean = {
        id: Box(*(round(sum(side) / len(side)) for side in zip(*found, strict=True))) for id, found in boxes.items()
    }
    other, text = read(next(one for one in stories if len(one.images) == len(told[0].sections)))
    return answer.render(each(other, lambda s: split([replace(row, box=mean[row.id]) for row in s.entities])), text)


def repeated_boxes(told: Told, stories: list[dataset.Example]) -> str:
    def three_times(section: Section) -> Rows:
        return split([replace(row, id=f"{row.id}{again}") for row in section.entities for again in ("", "00", "000")])

    return answer.render(each(told[0], three_times), told[1])


def one_id_for_all(told: Told, stories: list[dataset.Example]) -> str:
    rows = each(
        told[0], lambda s: split([replace(r, id="char1" if isinstance(r, Character) else "obj1") for r in s.entities])
    )
    return answer.render(rows, told[1])


def many_small_boxes(told: Told, stories: list[dataset.Example]) -> str:
    def with_more(section: Section) -> Rows:
        rows = list(section.entities)
        for number in range(40):
            x, y = 20 * (number % 8), 20 * (number // 8)
            rows.append(Object(f"obj{900 + number}", "A thing", "Use", "None", "Context", Box(x, y, x + 20, y + 20)))
        return split(rows)

    return answer.render(each(told[0], with_more), told[1])


def padded(told: Told, stories: list[dataset.Example]) -> str:
    """The first mention of each passage again and again: hallucinations become rare among the mentions."""
    passages = []
    for passage in told[1].passages:
        first = next(part for part in passage.parts if isinstance(part, Mention))
        passages.append(Passage(passage.image, (*passage.parts, *[part for _ in range(30) for part in (first, " ")])))
    return answer.render(told[0], Story(tuple(passages)))


def bare_tags(told: Told, stories: list[dataset.Example], filler: int = 0) -> str:
    """Each entity mentioned once in each image that shows it, by its name or ID, without a sentence about it."""
    passages = []
    for section in told[0].sections:
        tags = [Mention("gdo", (row.id,), getattr(row, "name", "") or row.id) for row in section.entities]
        passages.append(Passage(section.image, (*[part for tag in tags for part in (tag, " ")], "la " * filler)))
    return answer.render(told[0], Story(tuple(passages)))


def tags_and_filler(told: Told, stories: list[dataset.Example]) -> str:
    """The same with as many words as the story that was not told."""
    return bare_tags(told, stories, len(length.words(told[1])) // len(told[0].sections))


def another_story(told: Told, stories: list[dataset.Example]) -> str:
    """The perfect reference of another film's story with as many frames."""
    return answer.render(*read(next(one for one in stories if len(one.images) == len(told[0].sections))))


EXPLOITS = (
    silence, nothing_seen, one_row_a_frame, one_sure_mention, statistics_copied, repeated_boxes, one_id_for_all,
    many_small_boxes, padded, bare_tags, tags_and_filler, another_story,
)  # fmt: skip


@pytest.mark.parametrize("exploit", EXPLOITS)
@pytest.mark.parametrize("place", range(6))
def test_no_exploit_is_rewarded_like_the_honest_answer_that_it_is_made_from(
    exploit: Callable[[Told, list[dataset.Example]], str], place: int, stories: list[dataset.Example]
) -> None:
    example = stories[2 * place]
    told = honest(example)
    others = [one for one in stories if one.story_id[:-1] != example.story_id[:-1]]

    ours = reward(example, answer.render(*told))
    theirs = reward(example, exploit(told, others))

    assert 0.4 < ours.total < 1
    assert theirs.total < ours.total - 0.02, (ours, theirs)


def test_the_docs_say_what_each_exploit_is_rewarded(stories: list[dataset.Example]) -> None:
    means = []
    for exploit in (lambda told, others: answer.render(*told), *EXPLOITS):
        totals = []
        for example in stories[::2][:6]:
            others = [one for one in stories if one.story_id[:-1] != example.story_id[:-1]]
            totals.append(reward(example, exploit(honest(example), others)).total)
        means.append(f"{sum(totals) / len(totals):.2f}")
    table = DOCS.read_text().partition("| answer | reward |")[2].partition("\n\n")[0]

    assert re.findall(r"\d\.\d\d", table) == sorted(means, reverse=True)


def test_the_reference_is_rewarded_whole_and_every_part_is_named(stories: list[dataset.Example]) -> None:
    found = reward(stories[0], answer.join(stories[0].chain_of_thought, stories[0].story))

    assert found.total == pytest.approx(1)
    assert found.parts == dict.fromkeys(RewardConfig().model_dump(exclude={"length_band"}), 1.0)


def test_parts_are_the_scores_of_the_scorecard(stories: list[dataset.Example]) -> None:
    for example in stories:
        text = answer.render(*honest(example))
        metrics = score([Reference.of(example)], {example.story_id: text}).metrics()

        parts = reward(example, text).parts

        assert parts["grounding"] == pytest.approx(metrics["strict/grounding/f1"])
        assert parts["identity"] == pytest.approx(metrics["strict/identity/idf1"])
        assert parts["valid"] == metrics["strict/validity/valid"]


def test_a_better_answer_is_rewarded_more_in_the_part_that_is_better(stories: list[dataset.Example]) -> None:
    example = stories[0]
    told, text = read(example)
    worse, better = reward(example, answer.render(*honest(example))), reward(example, answer.render(told, text))
    assert worse.parts["grounding"] < better.parts["grounding"]

    # Given one ID that changes in the last image
    last = told.sections[-1]
    changed = replace(last, characters=tuple(replace(row, id="char99") for row in last.characters))
    swapped = reward(example, answer.render(replace(told, sections=(*told.sections[:-1], changed)), text))
    assert swapped.parts["grounding"] == 1
    assert swapped.parts["identity"] < 1
    assert swapped.parts["references"] < 1


@pytest.mark.parametrize(("times", "part"), [(0.5, 0), (0.9, 1), (1, 1), (1.15, 1), (1.5, 5 / 9), (2, 0), (9, 0)])
def test_the_length_pays_in_a_band_around_the_references(times: float, part: float) -> None:
    def told(words: int) -> str:
        return f"<gdi image1>\n{' '.join(f'word{number}' for number in range(words))}\n</gdi>"

    reference = Reference("a-1", ((100, 100),), "## Image 1", told(100))
    found = reward(reference, answer.join("## Image 1", told(round(100 * times))))
    assert found.parts["length"] == pytest.approx(part, abs=0.001)


def test_weights_are_those_of_the_preset_and_need_not_add_up_to_one(stories: list[dataset.Example]) -> None:
    zero = {name: 0.0 for name in RewardConfig.model_fields if name != "length_band"}
    chosen = load("sample", [f"reward.{name}={weight}" for name, weight in (zero | {"identity": 3.0}).items()]).reward

    found = reward(stories[0], answer.render(*honest(stories[0])), chosen)

    assert found.total == pytest.approx(found.parts["identity"])
    with pytest.raises(ValueError, match="at least one weight must be above 0"):
        RewardConfig.model_validate(zero)


@pytest.mark.parametrize("boxes", ["thousandths", "resized:28:784:6272"])
def test_boxes_count_what_the_model_was_trained_with(boxes: str, stories: list[dataset.Example]) -> None:
    example, sizes = stories[0], dataset.sizes(stories[0])
    told = answer.join(example.chain_of_thought, example.story)
    written = grids.converted(told, [(size, grids.grid(boxes, size)) for size in sizes])

    assert reward(example, written).parts["grounding"] < 0.9
    assert reward(example, written, boxes=boxes).total == pytest.approx(1)
    assert rewards(
        [written], [example.chain_of_thought], [example.story], [sizes], boxes=[boxes], story_id=[example.story_id]
    ) == pytest.approx([1])


def test_trl_calls_it_with_the_columns_of_the_data(stories: list[dataset.Example]) -> None:
    # The names of what TRL gives a reward function, which a new version may change. Importing its trainer takes long.
    package = importlib.util.find_spec("trl")
    assert package and package.origin
    source = (Path(package.origin).parent / "trainer" / "grpo_trainer.py").read_text()
    assert "prompts=prompts, completions=completions, completion_ids=completion_ids_list, **reward_kwargs" in source
    for name in ("trainer_state", "log_extra", "log_metric"):
        assert f'reward_kwargs["{name}"]' in source

    told = [answer.join(one.chain_of_thought, one.story) for one in stories[:2]]
    texts = [told[0], [{"role": "assistant", "content": told[1]}], ""]
    texts.append([{"role": "assistant", "content": [{"type": "text", "text": told[0]}]}])
    rows = [Reference.of(one) for one in (stories[0], stories[1], stories[0], stories[0])]
    logged: dict[str, float] = {}

    found = rewards(
        prompts=[""] * 4,
        completions=texts,
        completion_ids=[[0]] * 4,
        story_id=[one.story_id for one in rows],
        sizes=[[list(size) for size in one.sizes] for one in rows],
        chain_of_thought=[one.chain_of_thought for one in rows],
        story=[one.story for one in rows],
        trainer_state=None,
        log_extra=None,
        log_metric=logged.__setitem__,
    )

    assert found == pytest.approx([1, 1, 0, 1])
    assert logged["reward/grounding"] == logged["reward/valid"] == 0.75

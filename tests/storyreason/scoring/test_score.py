"""Whole answers against references: what a good and what a lazy storyteller gets."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storyreason.errors import ScoringError
from storyreason.format import analysis, answer, story
from storyreason.format.analysis import Analysis, Section
from storyreason.format.boxes import Box
from storyreason.format.story import Mention, Passage, Story
from storyreason.format.tables import PHASES, Character, Object, Phase, Setting
from storyreason.scoring import Reference, Scorecard, score

SIZE = (120, 80)


def person(id: str, x: int, y: int = 10) -> Character:
    return Character(id, f"Name of {id}", "a person", "Calm", "Waiting", "Protagonist", Box(x, y, x + 20, y + 40))


def thing(id: str, x: int, y: int = 60) -> Object:
    return Object(id, "a thing", "Use", "None", "Context", Box(x, y, x + 15, y + 15))


def told(*images: tuple[tuple[Character, ...], tuple[Object, ...]]) -> tuple[Analysis, Story]:
    """A valid analysis and story of these entities: all of them are mentioned wherever they are."""
    sections, passages = [], []
    for number, (people, things) in enumerate(images, 1):
        setting = (Setting("Location", "A room", "Calm", "Day", "Scene"),)
        sections.append(Section(number, people, things, setting))
        parts: list[str | Mention] = ["Here "]
        rows: tuple[Character | Object, ...] = (*people, *things)
        for row in rows:
            place = row.id.startswith(("lm", "bg"))
            parts += [Mention("gdl" if place else "gdo", (row.id,), f"the {row.id}"), " and "]
        passages.append(Passage(number, (*parts, "no more.")))
    phases = tuple(Phase(name, "It goes on", "Events", (1,)) for name in PHASES)
    return Analysis(tuple(sections), phases), Story(tuple(passages))


def reference(id: str, content: tuple[Analysis, Story]) -> Reference:
    sizes = (SIZE,) * len(content[0].sections)
    return Reference(id, sizes, analysis.render(content[0]), story.render(content[1]))


PEOPLE = told(
    ((person("char1", 0), person("char2", 40)), (thing("obj1", 80), thing("bg1", 100))),
    ((person("char1", 5), person("char2", 45)), (thing("obj1", 85),)),
    ((person("char2", 50),), (thing("lm1", 0),)),
    ((person("char1", 70), person("char2", 30)), ()),
    ((person("char2", 20),), (thing("obj1", 100),)),
)
REFERENCE = reference("film1-1", PEOPLE)


def judge(prediction: str, of: Reference = REFERENCE) -> dict[str, float]:
    return score([of], {of.story_id: prediction}).metrics()


PERFECT = [
    "strict/validity/valid", "strict/validity/readable",
    "strict/grounding/precision", "strict/grounding/recall", "strict/grounding/f1", "strict/grounding/f1_50_95",
    "strict/grounding/mean_iou", "strict/grounding/char/f1", "strict/grounding/bg/recall",
    "strict/identity/idf1", "strict/identity/idp", "strict/identity/idr",
    "strict/identity/bcubed/precision", "strict/identity/bcubed/recall", "strict/identity/bcubed/f1",
    "strict/identity/links/precision", "strict/identity/links/recall", "strict/identity/links/f1",
]  # fmt: skip


def test_the_reference_itself_is_perfect() -> None:
    metrics = judge(answer.render(*PEOPLE))

    assert {name: metrics[name] for name in PERFECT} == dict.fromkeys(PERFECT, 1.0)
    assert {value for name, value in metrics.items() if name.startswith("strict/validity/rule_pass_rate/")} == {1.0}
    assert metrics["strict/identity/switches_per_story"] == 0
    assert metrics["strict/references/hallucinations_per_100_mentions"] == 0
    assert metrics["strict/grounding/entities_per_frame"] == 13 / 5
    assert metrics["strict/persistence/story/char"] == metrics["strict/persistence/reference_story/char"] == 0.5


@pytest.mark.parametrize(
    "prediction", ["", "I am sorry, I cannot see the pictures.", "<think>\n</think>\nA story.", None]
)
def test_a_model_that_answers_nothing_scores_nothing(prediction: str | None) -> None:
    metrics = score([REFERENCE], {} if prediction is None else {"film1-1": prediction}).metrics()

    assert {metrics[name] for name in PERFECT if name in metrics} == {0.0}
    assert {value for name, value in metrics.items() if name.startswith("strict/validity/rule_pass_rate/")} == {0.0}
    assert metrics["strict/validity/missing"] == (prediction is None)


def test_a_model_that_writes_no_rows_keeps_no_rule_about_boxes_but_finds_nothing() -> None:
    # given: all headings, settings and phases, a story, and not one entity
    empty = tuple(replace(section, characters=(), objects=()) for section in PEOPLE[0].sections)
    passages = tuple(Passage(number, ("Nothing was there.",)) for number in range(1, 6))
    metrics = judge(answer.render(replace(PEOPLE[0], sections=empty), Story(passages)))

    assert metrics["strict/grounding/precision"] == metrics["strict/grounding/recall"] == 0
    assert metrics["strict/identity/idf1"] == metrics["strict/identity/bcubed/f1"] == 0
    assert metrics["strict/identity/links/f1"] == 0


def test_repeating_one_box_matches_at_most_one_entity_per_image() -> None:
    # given: every row of the reference, all with the box of char1 in the first image
    box = Box(0, 10, 20, 50)
    sections = tuple(
        replace(
            section,
            characters=tuple(replace(row, box=box) for row in section.characters),
            objects=tuple(replace(row, box=box) for row in section.objects),
        )
        for section in PEOPLE[0].sections
    )
    metrics = judge(answer.render(replace(PEOPLE[0], sections=sections), PEOPLE[1]))

    # then: it is char1 in the first image, and in the second, where it has moved little
    assert metrics["strict/grounding/f1"] == metrics["strict/identity/idf1"] == 2 / 13
    assert metrics["strict/identity/bcubed/f1"] < 0.2


def test_a_model_that_gives_one_id_to_all_has_perfect_boxes_and_no_identity() -> None:
    sections = tuple(
        replace(section, characters=tuple(replace(row, id="char1") for row in section.characters), objects=())
        for section in PEOPLE[0].sections
    )
    people_only = told(*((section.characters, ()) for section in PEOPLE[0].sections))
    metrics = judge(answer.render(replace(PEOPLE[0], sections=sections), Story(())), reference("film1-1", people_only))

    assert metrics["strict/grounding/f1"] == 1
    assert metrics["strict/identity/idf1"] == 5 / 8  # char2 stands in all five images, char1 in three
    assert metrics["strict/identity/links/precision"] < 0.6
    assert metrics["strict/validity/valid"] == 0


def test_a_box_counts_only_in_its_own_image() -> None:
    # given: the reference's sections with their images' numbers turned round
    sections = tuple(replace(section, image=6 - section.image) for section in PEOPLE[0].sections)[::-1]
    metrics = judge(answer.render(replace(PEOPLE[0], sections=sections), PEOPLE[1]))

    assert metrics["strict/grounding/f1"] < 0.5


def test_a_box_over_the_edge_is_clipped_and_an_unusable_one_costs_precision() -> None:
    one = told(((person("char1", 100, 40),), ()))
    over = told(((replace(person("char1", 100, 40), box=Box(100, 40, 131, 85)),), ()))
    inverted = told(((person("char1", 100, 40), replace(person("char2", 0), box=Box(50, 50, 10, 10))), ()))

    assert judge(answer.render(*over), reference("film1-1", one))["strict/grounding/mean_iou"] == 1
    metrics = judge(answer.render(*inverted), reference("film1-1", one))
    assert (metrics["strict/grounding/precision"], metrics["strict/grounding/recall"]) == (0.5, 1)


def test_kinds_do_not_match_one_another() -> None:
    as_background = told(*(((), (replace(thing("obj1", 80), id="bg1"),)) for _ in range(2)))
    as_thing = told(*(((), (thing("obj1", 80),)) for _ in range(2)))
    metrics = judge(answer.render(*as_background), reference("film1-1", as_thing))

    assert metrics["strict/grounding/f1"] == 0
    assert metrics["strict/identity/idf1"] == 1  # identity asks only whether it is the same all along


def test_repeated_and_unknown_stories_are_reported() -> None:
    with pytest.raises(ScoringError, match="'film1-1' twice"):
        score([REFERENCE, REFERENCE], {})
    with pytest.raises(
        ScoringError, match=r"1 predictions are for stories that the data do not hold \(for example 'film9-1'"
    ):
        score([REFERENCE], {"film9-1": ""})
    with pytest.raises(ScoringError, match="no story to score"):
        score([], {})


@st.composite
def films(draw: st.DrawFn) -> tuple[Analysis, Story]:
    """Up to four people and three things that come and go, in up to six images."""
    images = []
    for _ in range(draw(st.integers(1, 6))):
        people = draw(st.lists(st.integers(1, 4), unique=True, max_size=4))
        things = draw(st.lists(st.sampled_from(["obj1", "obj2", "lm1", "bg1"]), unique=True, max_size=3))
        images.append(
            (
                tuple(person(f"char{n}", draw(st.integers(0, 90)), draw(st.integers(0, 30))) for n in people),
                tuple(thing(id, draw(st.integers(0, 100)), draw(st.integers(0, 60))) for id in things),
            )
        )
    return told(*images)


def renamed(content: tuple[Analysis, Story], names: dict[str, str]) -> tuple[Analysis, Story]:
    sections = tuple(
        replace(
            section,
            characters=tuple(replace(row, id=names[row.id]) for row in section.characters),
            objects=tuple(replace(row, id=names[row.id]) for row in section.objects),
        )
        for section in content[0].sections
    )
    passages = tuple(
        replace(
            passage,
            parts=tuple(
                replace(part, ids=tuple(names[id] for id in part.ids)) if isinstance(part, Mention) else part
                for part in passage.parts
            ),
        )
        for passage in content[1].passages
    )
    return replace(content[0], sections=sections), Story(passages)


@settings(max_examples=100, deadline=None)
@given(films())
def test_any_reference_scores_perfectly_against_itself(film: tuple[Analysis, Story]) -> None:
    metrics = judge(answer.render(*film), reference("film1-1", film))

    assert {name: value for name, value in metrics.items() if name in PERFECT and value != 1.0} == {}


@settings(max_examples=100, deadline=None)
@given(films(), films(), st.permutations([1, 2, 3, 4]))
def test_shares_are_between_0_and_1_and_no_score_depends_on_the_names_of_ids(
    told: tuple[Analysis, Story], claimed: tuple[Analysis, Story], order: list[int]
) -> None:
    names = {f"char{a}": f"char{b + 10}" for a, b in zip([1, 2, 3, 4], order, strict=True)}
    names |= {"obj1": "obj2", "obj2": "obj1", "lm1": "lm7", "bg1": "bg9"}
    plain = judge(answer.render(*claimed), reference("film1-1", told))
    other = judge(answer.render(*renamed(claimed, names)), reference("film1-1", told))

    del plain["strict/language/distinct_1"], other["strict/language/distinct_1"]  # the stories here name their IDs
    assert other == pytest.approx(plain)
    for name, value in plain.items():
        if name.startswith(("strict/validity", "strict/grounding", "strict/identity")) and "_per_" not in name:
            assert 0 <= value <= 1, name


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(films(), films()), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_no_score_depends_on_the_order_of_stories(pairs: list, random: object) -> None:  # type: ignore[type-arg]
    references = [reference(f"film{i}-1", told) for i, (told, _) in enumerate(pairs)]
    predictions = {f"film{i}-1": answer.render(*claimed) for i, (_, claimed) in enumerate(pairs)}
    shuffled = list(references)
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    assert score(shuffled, predictions).metrics() == pytest.approx(score(references, predictions).metrics())


def test_references_may_come_one_by_one_and_the_scorecard_stores_all_of_it() -> None:
    references = [replace(REFERENCE, story_id=f"film{i}-1") for i in range(3)]
    predictions = {"film0-1": answer.render(*PEOPLE), "film2-1": "no answer"}
    card = score(iter(references), predictions)

    assert [row["strict/grounding/f1"] for row in card.table()] == [1, 0, 0]
    assert card.metrics()["strict/validity/missing"] == pytest.approx(1 / 3)
    assert Scorecard.from_json(card.to_json()).metrics() == card.metrics()


def test_repeating_one_row_endlessly_costs_precision() -> None:
    # given: a runaway model, whose first image has the first row 5000 times more
    section = PEOPLE[0].sections[0]
    runaway = replace(section, characters=section.characters + (section.characters[0],) * 5000)
    metrics = judge(answer.render(replace(PEOPLE[0], sections=(runaway, *PEOPLE[0].sections[1:])), PEOPLE[1]))

    assert metrics["strict/grounding/recall"] == 1
    assert metrics["strict/grounding/precision"] == 13 / 5013
    assert metrics["strict/identity/idf1"] == 2 * 13 / (13 + 5013)
    assert metrics["strict/identity/links/recall"] == 1
    assert metrics["strict/validity/valid"] == 0


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_corrupted_answer_gets_a_score(data: st.DataObject) -> None:
    text = answer.render(*PEOPLE)
    for _ in range(data.draw(st.integers(1, 4))):
        start, end = sorted((data.draw(st.integers(0, len(text))), data.draw(st.integers(0, len(text)))))
        middle = data.draw(
            st.one_of(
                st.just(""), st.text(max_size=8), st.sampled_from(["|", "<gdo char1>", "</gdi>", "-1,0,9,9", "\n"])
            )
        )
        text = text[:start] + middle + text[data.draw(st.sampled_from([start, end])) :]
    for name, value in judge(text).items():
        if name.startswith(("strict/validity", "strict/grounding", "strict/identity")) and "_per_" not in name:
            assert 0 <= value <= 1, name

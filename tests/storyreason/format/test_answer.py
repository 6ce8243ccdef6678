import json
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storyreason.format import answer, rules
from storyreason.format.analysis import Section
from storyreason.format.answer import Reader
from storyreason.format.story import Passage
from storyreason.format.tables import Character

GOLDEN = Path(__file__).parents[2] / "golden" / "paper_protocol.json"
EXAMPLES = json.loads(GOLDEN.read_text())["stories"]
PREDICTIONS = {
    mode: next(e["prediction"] for e in EXAMPLES if e["mode"] == mode) for mode in {e["mode"] for e in EXAMPLES}
}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["story_id"])
def test_an_example_of_the_data_set_is_read_and_written_again(example: dict[str, str]) -> None:
    read = answer.read(answer.join(example["chain_of_thought"], example["story"]))

    assert read.readable and not read.problems
    assert (read.chain_of_thought, read.story_text) == (example["chain_of_thought"], example["story"])
    assert read.analysis and read.story
    again = answer.read(answer.render(read.analysis, read.story))
    assert (again.analysis, again.story, again.story_text) == (read.analysis, read.story, example["story"])


@given(st.text(max_size=30), st.text(max_size=30))
def test_both_halves_come_back_as_they_were(chain_of_thought: str, story: str) -> None:
    read = answer.read(answer.join(chain_of_thought, story))
    assert (read.chain_of_thought, read.story_text) == (chain_of_thought, story)


def test_what_cannot_be_read() -> None:
    for text in (
        "",
        "I am sorry.",
        "## Image 1\n</think>\n<gdi image1>a</gdi>",
        "<think>\nHm.\n</think>\n<gdi image1>a</gdi>",
    ):
        read = answer.read(text)
        assert not read.readable
        assert read.problems[0].rule == "answer-unreadable"
        assert not rules.is_valid(rules.check(read, [(10, 10)]))
    assert answer.read("I am sorry.").story_text == "I am sorry."


def test_a_truncated_answer_keeps_its_complete_rows_and_is_invalid() -> None:
    whole = answer.read(PREDICTIONS["exact"])
    assert whole.analysis and whole.analysis.sections[0].characters
    line = whole.analysis.sections[0].characters[0].line
    row = "\n".join(PREDICTIONS["exact"].split("\n")[:line])

    for cut, rows in ((row, 1), (row[:-2], 0), (row[:-20], 0)):
        read = answer.read(cut)
        assert read.analysis and read.story is None and read.readable
        assert read.analysis.sections == (Section(1, whole.analysis.sections[0].characters[:rows]),)
        assert read.problems[0].rule == "answer-truncated"
        assert not rules.is_valid(rules.check(read, [(575, 240)]))


def test_lines_count_from_the_beginning_of_the_answer() -> None:
    read = answer.read("Sure!\n\n<think>\n## Image 1\nHm.\n</think>\n<gdi image1>a</gdi>\n<gdo char1>")
    assert [(problem.rule, problem.line, problem.column) for problem in read.problems] == [
        ("text-outside-image", 1, 1), ("analysis-text", 5, 1), ("text-outside-image", 8, 1), ("tag-unclosed", 8, 1),
    ]  # fmt: skip
    assert answer.read("<think>Hm.\n## Image 1\n</think>").problems[0].column == len("<think>") + 1


def pieces(text: str, seed: int, longest: int) -> list[str]:
    chance = random.Random(seed)
    cuts = [0]
    while cuts[-1] < len(text):
        cuts.append(cuts[-1] + chance.randint(1, longest))
    return [text[start:end] for start, end in pairwise(cuts)]


@pytest.mark.parametrize("mode", sorted(PREDICTIONS))
@pytest.mark.parametrize("longest", [1, 8, 500])
def test_a_stream_gives_the_same_as_the_whole_text(mode: str, longest: int) -> None:
    text = PREDICTIONS[mode].replace("\n", "\r\n") if longest == 8 else PREDICTIONS[mode]
    at_once = Reader()
    everything = at_once.feed(text)

    reader, found = Reader(), []
    for piece in pieces(text, seed=longest, longest=longest):
        found += reader.feed(piece)

    assert found == everything
    assert reader.close() == at_once.close() == answer.read(text)


@given(st.data())
def test_every_prefix_gives_what_is_complete_so_far(data: st.DataObject) -> None:
    text = PREDICTIONS["exact"]
    cut = data.draw(st.integers(0, len(text)))
    everything = Reader().feed(text)

    reader = Reader()
    found = reader.feed(text[:cut])

    assert found == everything[: len(found)]
    so_far = reader.answer()
    sections = so_far.analysis.sections if so_far.analysis else ()
    assert [section.image for section in sections] == [f.image for f in found if isinstance(f.what, Section)]
    people = [character for section in sections for character in section.characters]
    assert people == [f.what for f in found if isinstance(f.what, Character)]
    told = so_far.story.passages if so_far.story else ()
    assert sum(len(passage.parts) + 1 for passage in told) == sum(
        isinstance(f.what, Passage) or (bool(told) and not isinstance(f.what, Section) and not hasattr(f.what, "line"))
        for f in found
    )
    assert not so_far.problems
    # And parsing continues unaffected.
    assert found + reader.feed(text[cut:]) == everything


SCRAPS = [
    "|", "\n", "<gdo char1>", "</gdo>", "<gdi image2>", "</gdi>", "</think>", "<think>", "## Image 3\n",
    "### Objects\n", "<", ">", "\\|", "9" * 5000, "-1,0", "\r", "\0", "é\u2028", "| char1 | a |\n", "1-999", "image",
]  # fmt: skip


def mutate(text: str, chance: random.Random) -> str:
    """Damages a text like a bad model: truncates, repeats, drops and swaps parts, and inserts fragments."""
    for _ in range(chance.randint(1, 6)):
        start, end = sorted((chance.randint(0, len(text)), chance.randint(0, len(text))))
        end = min(end, start + 400)
        kind = chance.randrange(5)
        if kind == 0:
            text = text[:start] + chance.choice(SCRAPS) * chance.choice([1, 1, 3, 50]) + text[start:]
        elif kind == 1:
            text = text[:start] + text[end:]
        elif kind == 2:
            text = text[:end] + text[start:]
        elif kind == 3:
            text = (
                text[end:] + text[:end] if chance.random() < 0.2 else text[:start] + text[start:end][::-1] + text[end:]
            )
        else:
            text = text[: max(start, len(text) // 2)]
    return text


@given(st.sampled_from(sorted(PREDICTIONS)), st.integers(0, 2**32))
def test_a_mutated_answer_never_raises_and_streams_alike(mode: str, seed: int) -> None:
    chance = random.Random(seed)
    text = mutate(PREDICTIONS[mode][:6000], chance)

    read = answer.read(text)
    problems = rules.check(read, [(575, 240)] * 5)

    lines = text.split("\n")
    for problem in problems:
        assert 1 <= problem.line <= len(lines)
        assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1
    reader = Reader()
    for piece in pieces(text, seed=seed, longest=60):
        reader.feed(piece)
    assert reader.close() == read

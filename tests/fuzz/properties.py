"""What must hold for any text that a model may write. Each check raises AssertionError, or whatever the reader raised."""

import json
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import httpx

from storyreason import page
from storyreason.format import answer, rules
from storyreason.format.answer import Answer
from storyreason.format.problems import Problem
from storyreason.format.story import without_tags
from storyreason.generation import grammar, openai
from storyreason.generation.openai import Chunk
from storyreason.scoring import Reference, reward, score
from storyreason.serving.live import StoryEvents
from tests.fuzz.answers import Size, well_formed

RARELY = 32
"""One case in so many goes through scoring, page and grammars, which take ten times as long as reading."""


def examine(text: str, sizes: Sequence[Size], chance: random.Random) -> None:
    """Everything that must hold for one text."""
    read = answer.read(text)
    problems = rules.check(read, sizes)
    _places_are_in_the_text(problems, text)
    _a_stream_reads_the_same(text, read, chance)
    _what_is_rendered_is_read_again(read)
    assert not rules.is_valid(problems) or read.readable
    if not chance.randrange(RARELY):
        rules.check(read, None)
        without_tags(read.story_text)
        _everyone_who_uses_it_copes(text, read, sizes, chance)


def _places_are_in_the_text(problems: Iterable[Problem], text: str) -> None:
    lines = text.split("\n")
    for problem in problems:
        assert problem.rule in rules.RULES, problem
        assert 1 <= problem.line <= len(lines), problem
        assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1, problem
        assert problem.image is None or problem.image >= 0, problem


def _a_stream_reads_the_same(text: str, read: Answer, chance: random.Random) -> None:
    reader = answer.Reader()
    for piece in pieces(text, chance):
        reader.feed(piece)
        if chance.random() < 0.01:
            reader.answer()
    # As text, because `==` leaves out lines and offsets.
    assert repr(reader.close()) == repr(read)


def pieces(text: str, chance: random.Random) -> list[str]:
    """The text cut at a few random places, and somewhere into single characters."""
    place, count = int(chance.random() * len(text)), chance.choice((0, 2, 8, 40))
    cuts = {0, len(text), *(int(chance.random() * len(text)) for _ in range(count))}
    cuts.update(range(place, min(place + 16, len(text))))
    return [text[start:end] for start, end in pairwise(sorted(cuts))]


def _what_is_rendered_is_read_again(read: Answer) -> None:
    """An answer that was read without a problem. (A tag that is dropped as a fault may join the text around it to a new one.)"""
    if read.analysis is None or read.story is None:
        return
    again = answer.read(answer.render(read.analysis, read.story))
    if not read.problems:
        assert (again.analysis, again.story) == (read.analysis, read.story)


def _everyone_who_uses_it_copes(text: str, read: Answer, sizes: Sequence[Size], chance: random.Random) -> None:
    json.dumps(page.so_far("case", sizes, read), allow_nan=False).encode()
    reference, its_sizes = well_formed(chance)
    half = answer.read(reference)
    of_case = Reference("case", tuple(its_sizes), half.chain_of_thought, half.story_text)
    # Beside another film's story, so that both answers are compared with the other reference too.
    card = score([of_case, replace(of_case, story_id="other")], {"case": text, "other": reference})
    for one in (card, card.controls["other-reference"].card):
        assert all(math.isfinite(value) for row in one.sums for value in row)
    rewarded = reward(of_case, text)
    assert all(0 <= value <= 1 + 1e-9 for value in (rewarded.total, *rewarded.parts.values())), rewarded
    if read.analysis is not None:
        grammar.of_story(read.analysis)
        grammar.end_of_analysis(sizes, read.analysis)
        grammar.end_of_story(read.analysis, read.story_text)
    _events_tell_the_same(text, read, sizes, chance)
    _an_engines_lines_come_whole(text, chance)


def _events_tell_the_same(text: str, read: Answer, sizes: Sequence[Size], chance: random.Random) -> None:
    """The events of a stream that takes characters back, as grounded decoding does: they add up to the same text."""
    shown = ""

    def emit(kind: str, event: dict[str, object]) -> None:
        nonlocal shown
        line = json.dumps(event, allow_nan=False)
        if kind == "text":
            sent = json.loads(line)
            shown = shown[: len(shown) - sent.get("back", 0)] + sent["text"]

    events, written = StoryEvents(sizes, emit), ""
    for number, piece in enumerate(pieces(text, chance)[:200]):
        back = chance.randint(0, min(len(written), 20)) if not chance.randrange(12) else 0
        events.feed(Chunk(piece, back, number))
        written = written[: len(written) - back] + piece
    assert shown == written
    assert repr(events._reader.close()) == repr(answer.read(written))


def _an_engines_lines_come_whole(text: str, chance: random.Random) -> None:
    """Server-sent events in which JSON leaves every character as it is, cut at any byte."""
    plain = text.encode(errors="replace").decode()  # half of a surrogate pair has no UTF-8
    sent = [json.dumps(piece, ensure_ascii=False) for piece in pieces(plain, chance)]
    content = "".join(f"data: {line}\n\n" for line in sent).encode()
    cuts = sorted({0, len(content), *(chance.randint(0, len(content)) for _ in range(20))})
    response = httpx.Response(200, content=(content[start:end] for start, end in pairwise(cuts)))
    received = [json.loads(line.removeprefix("data: ")) for line in openai.lines(response) if line]
    assert "".join(received) == plain

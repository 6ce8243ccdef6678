"""A model that counts boxes in its own way: whoever reads its answers gets pixels of the original pictures."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storyreason import dataset
from storyreason.format import analysis, answer, grids
from storyreason.generation import Chunk, GenerationConfig, answering
from storyreason.generation.config import Decoding
from storyreason.generation.converting import ConvertedChunks
from tests.storyreason.format.test_grids import ANSWER, CONVENTIONS
from tests.storyreason.generation.endpoint import Reply, endpoint, next_part, refusal, stream
from tests.storyreason.generation.endpoint import answer as reply_with

CHANGES = [((1000, 1000), (575, 240)), ((100, 100), (30, 40)), ((9, 9), (7, 7))]


def applied(chunks: Sequence[Chunk]) -> str:
    text = ""
    for chunk in chunks:
        assert chunk.back <= len(text)
        text = text[: len(text) - chunk.back] + chunk.text
    return text


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30)), max_size=60), st.integers(0, len(ANSWER)))
def test_a_stream_in_any_pieces_is_converted_as_the_whole_is(pieces: list[tuple[int, int]], end: int) -> None:
    shown: list[Chunk] = []
    stream = ConvertedChunks(shown.append, CHANGES)
    # Given an answer in pieces, some of which take characters back
    at = 0
    for size, back in pieces:
        back = min(back, at)
        stream(Chunk(ANSWER[at - back : at - back + size], back))
        at += size - back
        at = min(at, len(ANSWER))
    stream(Chunk(ANSWER[at:end] if at <= end else "", max(0, at - end)))
    stream.end()
    # Then all chunks together are the whole answer, converted
    assert applied(shown) == grids.converted(ANSWER[:end], CHANGES)


def test_text_is_shown_as_it_arrives_and_rows_when_they_are_whole() -> None:
    shown: list[Chunk] = []
    stream = ConvertedChunks(shown.append, CHANGES)
    for character in ANSWER:
        stream(Chunk(character))
    texts = [chunk.text for chunk in shown if chunk.text]
    assert all("|" not in text or text.endswith("\n") for text in texts[: -len(ANSWER.partition("</think>")[2])])
    assert "".join(texts) == grids.converted(ANSWER, CHANGES)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("decoding", ["free", "grounded"])
@pytest.mark.parametrize("live", [False, True])
def test_answers_have_pixels_of_the_original(
    examples: list[dataset.Example], convention: str, decoding: Decoding, live: bool
) -> None:
    # Given a model that writes a story in its convention, and knows only that
    example = examples[0]
    sizes = dataset.sizes(example)
    changes = [(size, grids.grid(convention, size)) for size in sizes]
    told = grids.converted(answer.join(example.chain_of_thought, example.story), changes)
    thought = told.partition("<think>\n")[2].partition("\n</think>")[0]
    seen: list[str] = []

    def reply(body: dict[str, Any]) -> Reply:
        if "prompt" in body:
            return refusal(404, "no tokenizer here")
        text = told
        if decoding == "grounded":
            written = body["messages"][-1]["content"]
            seen.append(written)
            text = next_part(thought, example.story, written)
        return stream(text[at : at + 7] for at in range(0, len(text), 7)) if body.get("stream") else reply_with(text)

    # When it is asked
    shown: list[Chunk] = []
    config = GenerationConfig(decoding=decoding, max_tokens=20_000, boxes=convention)
    with endpoint(reply) as url:
        found = answering.answer_to(
            url, "teller", example.story_id, example.images, config, on_chunk=shown.append if live else None
        )
    # Then boxes are in pixels, to within rounding; the rest is as it was written
    assert found.answer == grids.converted(told, [(after, before) for before, after in changes])
    read, truth = answer.read(found.answer), analysis.read(example.chain_of_thought)[0]
    assert read.analysis is not None and read.story_text == example.story
    for section, wanted, (size, there) in zip(read.analysis.sections, truth.sections, changes, strict=True):
        unit = max(before / after for before, after in zip(size, there, strict=True))
        for row, true in zip(section.entities, wanted.entities, strict=True):
            assert row.box is not None and true.box is not None
            assert max(abs(a - b) for a, b in zip(row.box, true.box, strict=True)) <= max(1, unit / 2 + 0.5)
    assert not live or applied(shown) == found.answer
    # and grounded decoding went on from what the model wrote itself
    assert not seen or seen[-1].startswith(f"<think>\n{thought}\n</think>")

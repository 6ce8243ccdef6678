"""A model that generates in this process."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from storyreason import adapters, dataset
from storyreason import model as models
from storyreason.errors import EngineAwayError, EngineError
from storyreason.format import answer, rules
from storyreason.generation import Chunk, GenerationConfig, Stop, answering, grounded
from storyreason.generation.inprocess import LONGEST, InProcess
from storyreason.generation.openai import Endpoint
from storyreason.generation.vllm import VllmServer, on_cpu
from storyreason.sample import untrained
from storyreason.serving.config import ServingConfig
from tests.tiny import Bases

pytestmark = pytest.mark.server  # it loads a model


PENALTIES = {
    "repetition_penalty": 1.5,
    "top_k": 1,
    "top_p": 0.1,
    "min_p": 0.9,
    "no_repeat_ngram_size": 2,
    "do_sample": True,
}
"""What the `generation_config.json` of a published base may say, more strongly."""


def saying(folder: Path, **more: Any) -> Path:
    """A model folder whose `generation_config.json` says more."""
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | more))
    return folder


@pytest.fixture(scope="module")
def engine(untrained: Path) -> InProcess:
    return InProcess(untrained, longest=3072)


def test_a_grounded_story_is_valid_and_its_chunks_add_up_to_it(engine: InProcess, frames: tuple[bytes, ...]) -> None:
    config = GenerationConfig(decoding="grounded", temperature=1.0, max_tokens=700)
    pieces: list[Chunk] = []
    told = answering.answer_by(engine, "a story", frames[:1], config, on_chunk=pieces.append)

    assert rules.is_valid(rules.check(answer.read(told.answer), [(196, 112)])), told.answer
    text = ""
    for piece in pieces:
        text = text[: len(text) - piece.back] + piece.text
    assert text == told.answer
    assert told.tokens <= 700 and pieces[-1].tokens <= told.tokens
    assert told.ended and not told.cut  # an untrained model does not come to an end by itself


def test_it_answers_a_split_as_addresses_do(
    engine: InProcess, tiny_examples: list[dataset.Example], tmp_path: Path
) -> None:
    config = GenerationConfig(temperature=1.0, max_tokens=8, concurrency=1)
    few, out = tiny_examples[:2], tmp_path / "answers.jsonl"
    told = answering.predict([engine], "teller", few, config, out)
    assert told == [answering.answer_by(engine, one.story_id, one.images, config) for one in few]
    again = answering.predict([engine], "teller", few, config.model_copy(update={"seed": 1}), tmp_path / "again.jsonl")
    assert [one.answer for one in again] != [one.answer for one in told]


def test_the_request_alone_says_how_an_answer_is_sampled(
    engine: InProcess, untrained: Path, frames: tuple[bytes, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_warper(*_: Any, **__: Any) -> None:
        pytest.fail("only some of the tokens were sampled from")

    monkeypatch.setattr("transformers.generation.utils.TopKLogitsWarper", no_warper)  # by default it takes 50
    other = InProcess(saying(Path(shutil.copytree(untrained, tmp_path / "model")), **PENALTIES))
    for temperature in (0.0, 1.0):
        asked = GenerationConfig(temperature=temperature, max_tokens=24)
        assert other.session(frames[:1], asked).tell() == engine.session(frames[:1], asked).tell()


def test_an_answer_ends_at_each_token_that_its_folder_or_its_tokenizer_names(
    engine: InProcess, untrained: Path, frames: tuple[bytes, ...], tmp_path: Path
) -> None:
    asked = GenerationConfig(max_tokens=8)
    told = engine.session(frames[:1], asked).tell()
    first = engine.processor.tokenizer(told.text)["input_ids"][0]
    folder = saying(Path(shutil.copytree(untrained, tmp_path / "model")), eos_token_id=[first])
    other = InProcess(folder)
    ended = other.session(frames[:1], asked).tell()
    assert told.cut and not ended.cut and ended.tokens == 1
    assert other.ends == sorted({first, other.processor.tokenizer.eos_token_id})


@pytest.mark.parametrize(("taken", "longest"), [(32_768, 32_768), (128_000, LONGEST)])
def test_an_answer_may_be_as_long_as_the_model_takes(
    engine: InProcess, untrained: Path, taken: int, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.model.config.get_text_config(), "max_position_embeddings", taken)
    monkeypatch.setattr(models, "load", lambda *_, **__: engine.model)
    assert InProcess(untrained).longest == longest


@pytest.mark.parametrize("kind", ["a name", "an adapter over a name"])
def test_a_base_of_the_hub_is_loaded_in_its_revision(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, ...]] = []

    def load(*given: Any, **_: Any) -> None:
        seen.append(given[:2])
        raise InterruptedError

    monkeypatch.setattr(models, "load_processor", lambda *given: seen.append(given))
    monkeypatch.setattr(models, "load", load)
    monkeypatch.setattr(models, "merged", load)
    origin = {"name": "owner/model", "revision": "abc", "identity": "0123456789abcdef"}
    (tmp_path / adapters.BASE).write_text(json.dumps(origin))
    (tmp_path / adapters.FILE).write_text('{"r": 4}')
    with pytest.raises(InterruptedError):
        InProcess(tmp_path) if kind == "an adapter over a name" else InProcess("owner/model", revision="abc")
    assert seen == [("owner/model", "abc")] * 2


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen3_5", "lfm2_vl"])
def test_a_grounded_story_of_another_family_is_valid_in_pixels_of_the_original(
    tiny_bases: Bases, frames: tuple[bytes, ...], family: str
) -> None:
    teller = InProcess(tiny_bases(family))
    config = GenerationConfig(decoding="grounded", temperature=1.0, max_tokens=1200, boxes="thousandths")
    told = answering.answer_by(teller, "a story", frames[:1], config)
    assert rules.is_valid(rules.check(answer.read(told.answer), [(196, 112)])), told.answer


def test_too_few_tokens_are_rejected_as_with_an_endpoint(engine: InProcess, frames: tuple[bytes, ...]) -> None:
    with pytest.raises(
        EngineError, match=r"needs \d+ tokens or more, but the limit is 50: raise generation\.max_tokens"
    ):
        grounded.tell(engine, frames[:1], GenerationConfig(max_tokens=50))


def test_an_answer_is_never_given_more_tokens_than_the_context_leaves(
    engine: InProcess, frames: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = GenerationConfig(max_tokens=400)
    monkeypatch.setattr(engine, "longest", engine.longest - engine.session(frames[:1], asked).room() + 50)
    with pytest.raises(EngineError, match=r"but the limit is 50: raise serving\.max_model_len, or show fewer images"):
        grounded.tell(engine, frames[:1], asked)


def test_it_can_be_cancelled_from_another_thread(engine: InProcess, frames: tuple[bytes, ...]) -> None:
    stop, begun = Stop(), threading.Event()

    def end() -> None:
        begun.wait(60)
        stop.set()

    threading.Thread(target=end).start()
    with pytest.raises(EngineAwayError, match="The caller cancelled this request"):
        session = engine.session(frames[:1], GenerationConfig(max_tokens=3000))
        session.tell(grammar="root ::= [a-z ]{3000}", on_chunk=lambda _: begun.set(), stop=stop)


def test_greedy_text_is_vllms_token_for_token(
    engine: InProcess, vllm_server: VllmServer, frames: tuple[bytes, ...]
) -> None:
    config = GenerationConfig(max_tokens=40)
    ours = engine.session(frames, config)
    theirs = Endpoint(vllm_server.url, vllm_server.name).session(frames, config)
    assert ours.tell() == theirs.tell()
    assert ours.room() == theirs.room()
    going_on: dict[str, Any] = {"written": "<think>\n", "grammar": 'root ::= [a-z ]{30} "."'}
    assert ours.tell(**going_on) == theirs.tell(**going_on)


@pytest.mark.parametrize(
    "family",
    [
        "qwen3_vl",
        pytest.param(
            "lfm2_vl",
            marks=pytest.mark.skipif(on_cpu(), reason="vLLM's build for CPUs tells another text of LFM2.5-VL"),
        ),
        pytest.param(
            "qwen3_5",
            marks=pytest.mark.skipif(
                on_cpu(), reason="vLLM's build for CPUs runs Qwen3.5's linear layers in bfloat16 only"
            ),
        ),
    ],
)
def test_another_family_tells_the_same_in_vllm(
    examples: list[dataset.Example], frames: tuple[bytes, ...], serving: ServingConfig, tmp_path: Path, family: str
) -> None:
    folder = saying(untrained.write(tmp_path / "base", examples, family=family, wide=True), **PENALTIES)
    config = GenerationConfig(max_tokens=30)
    ours = InProcess(folder, longest=serving.max_model_len).session(frames, config)
    with VllmServer(folder, serving.model_copy(update={"dtype": "float32"}), log=tmp_path / "vllm.log") as server:
        theirs = Endpoint(server.url, server.name).session(frames, config)
        assert ours.tell() == theirs.tell()
        going_on: dict[str, Any] = {"written": "<think>\n", "grammar": 'root ::= [a-z ]{20} "."'}
        assert ours.tell(**going_on) == theirs.tell(**going_on)

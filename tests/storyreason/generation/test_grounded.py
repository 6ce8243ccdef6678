"""Grounded decoding with a real vLLM and an untrained model: its answers are nonsense, but valid."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from storyreason import dataset, generation
from storyreason.cli import app
from storyreason.errors import DataError, EngineError
from storyreason.format import answer, rules
from storyreason.generation import GenerationConfig, grounded
from storyreason.generation.openai import Endpoint
from storyreason.generation.vllm import VllmServer

pytestmark = pytest.mark.server


def test_an_untrained_model_writes_valid_stories(
    vllm_server: VllmServer, examples: list[dataset.Example], tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = GenerationConfig(decoding="grounded", temperature=1.0)
    out = tmp_path_factory.mktemp("grounded") / "predictions.jsonl"
    told = generation.predict(vllm_server.url, vllm_server.name, examples[:2], config, out)

    for example, one in zip(examples[:2], told, strict=True):
        read = answer.read(one.answer)
        found = rules.check(read, dataset.sizes(example))
        assert not one.cut
        assert rules.is_valid(found), (found[:3], one.answer)
        assert read.analysis is not None
        assert len(read.analysis.sections) == len(example.images)
    assert generation.answering.read(out) == told


def test_too_few_tokens_for_an_ending_are_rejected_with_the_number_needed(
    vllm_server: VllmServer, frames: tuple[bytes, ...]
) -> None:
    with pytest.raises(
        EngineError, match=r"about 5 images needs \d+ tokens or more, but the limit is 200: raise generation"
    ):
        grounded.tell(Endpoint(vllm_server.url, vllm_server.name), frames, GenerationConfig(max_tokens=200))


def test_tell_prints_a_valid_answer_and_writes_a_page(
    vllm_server: VllmServer, frames: tuple[bytes, ...], tmp_path: Path
) -> None:
    files = [tmp_path / f"{number}.jpg" for number in (1, 2, 3)]
    for file, frame in zip(files, frames, strict=False):
        file.write_bytes(frame)
    arguments = ["tell", *map(str, files), "--endpoint", vllm_server.url, "--out", str(tmp_path / "page.html")]
    done = CliRunner().invoke(app, arguments)

    assert done.exit_code == 0, done.output
    assert rules.is_valid(rules.check(answer.read(done.stdout.removesuffix("\n")), [(196, 112)] * 3))
    assert "<html" in (tmp_path / "page.html").read_text()


def test_tell_names_the_models_of_an_endpoint_and_files_that_are_not_pictures(
    vllm_server: VllmServer, frames: tuple[bytes, ...], tmp_path: Path
) -> None:
    (tmp_path / "1.jpg").write_bytes(frames[0])
    (tmp_path / "2.jpg").write_text("no picture")
    runner, endpoint = CliRunner(), ["--endpoint", vllm_server.url]
    with pytest.raises(EngineError, match=rf"serves {vllm_server.name}, not other: name one of these"):
        runner.invoke(app, ["tell", str(tmp_path / "1.jpg"), "--model", "other", *endpoint], catch_exceptions=False)
    with pytest.raises(DataError, match=r"2\.jpg cannot be read as a picture .*: name image files, in order"):
        runner.invoke(app, ["tell", str(tmp_path / "2.jpg"), *endpoint], catch_exceptions=False)

"""Several engines for one evaluation: their devices, and that two tell what one tells."""

from pathlib import Path

import pytest

from storyreason import dataset, generation
from storyreason.errors import EngineError
from storyreason.generation import GenerationConfig, command, several
from storyreason.generation.config import EngineConfig
from storyreason.generation.vllm import VllmServer
from storyreason.serving.config import ServingConfig


@pytest.mark.parametrize(
    ("settings", "gpus", "devices"),
    [
        ({}, 8, [None]),
        ({"devices": "3"}, 8, ["3"]),
        ({"data_parallel": 2}, 2, ["0", "1"]),
        ({"data_parallel": 2, "tensor_parallel": 2, "devices": "4,5,6,7"}, 8, ["4,5", "6,7"]),
        ({"data_parallel": 2}, 0, [None, None]),
    ],
)
def test_each_engine_has_devices_of_its_own(settings: dict[str, object], gpus: int, devices: list[str | None]) -> None:
    shares = several.shares(EngineConfig.model_validate(settings), gpus)
    assert [one.devices for one in shares] == devices
    assert all(one.data_parallel == 1 for one in shares)


def test_without_gpus_an_evaluation_may_have_two_engines_and_a_gateway_not() -> None:
    two = EngineConfig(data_parallel=2)
    command.check(two, lambda: 0, evaluates=True)
    with pytest.raises(EngineError, match="needs 2 GPUs, and this machine has none"):
        command.check(two, lambda: 0)
    with pytest.raises(EngineError, match="needs 4 GPUs, and this machine has none"):
        command.check(EngineConfig(data_parallel=2, tensor_parallel=2), lambda: 0, evaluates=True)


@pytest.mark.server
def test_two_engines_tell_in_float32_what_one_tells(
    vllm_server: VllmServer,
    untrained: Path,
    serving: ServingConfig,
    examples: list[dataset.Example],
    tmp_path: Path,
) -> None:
    asked, stories = GenerationConfig(max_tokens=40, concurrency=1), examples[:6]
    one = generation.predict(vllm_server.url, vllm_server.name, stories, asked, tmp_path / "one.jsonl")
    two = serving.model_copy(update={"data_parallel": 2, "dtype": "float32"})
    with several.engines(untrained, two, tmp_path / "vllm.log") as engines:
        urls = [engine.url for engine in engines]
        told = generation.predict(urls, engines[0].name, stories, asked, tmp_path / "two.jsonl")
    assert len(set(urls)) == 2 and told == one
    assert {path.name for path in tmp_path.glob("*.log")} == {"vllm.log", "vllm-2.log"}
    assert not any(engine.alive() for engine in engines)

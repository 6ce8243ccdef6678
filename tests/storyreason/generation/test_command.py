"""vLLM's command line: what our settings become, what is refused before an engine starts."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from storyreason import architecture, config
from storyreason.errors import ConfigError, EngineError
from storyreason.generation import command, vllm
from storyreason.generation.config import OWN_OPTIONS, EngineConfig
from storyreason.generation.vllm import VllmServer, on_cpu, refuse_untold


def test_settings_at_their_defaults_leave_vllm_its_own() -> None:
    line = command.arguments(EngineConfig(), on_cpu=False)
    for option in ("--tensor-parallel-size", "--data-parallel-size", "--quantization", "--kv-cache-dtype"):
        assert option not in line


def test_the_model_folder_does_not_say_how_answers_are_sampled() -> None:
    pairs = dict(itertools.pairwise(command.arguments(EngineConfig(), on_cpu=False)))
    assert pairs["--generation-config"] == "vllm"


def test_settings_become_options_and_the_rest_is_handed_on() -> None:
    chosen = EngineConfig(
        tensor_parallel=4, data_parallel=2, quantization="fp8", kv_cache_dtype="fp8", extra_args=["--max-loras", "2"]
    )
    line = command.arguments(chosen, on_cpu=False)
    pairs = dict(itertools.pairwise(line))
    assert pairs["--tensor-parallel-size"] == "4" and pairs["--data-parallel-size"] == "2"
    assert pairs["--quantization"] == "fp8" and pairs["--kv-cache-dtype"] == "fp8"
    assert line[-2:] == ["--max-loras", "2"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("-tp=2", "use serving.tensor_parallel"),
        ("--tensor-parallel-size", "use serving.tensor_parallel"),
        ("--tensor_parallel_size=2", "use serving.tensor_parallel"),
        ("-q", "use serving.quantization"),
        ("--max-model-len=8", "use serving.max_model_len"),
        ("--port", "leave it out"),
        ("--generation-config=auto", "leave it out"),
        ("--served-model-name=x", "leave it out"),
    ],
)
def test_an_option_that_we_set_is_refused_by_the_name_of_its_setting(given: str, sentence: str, tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text(json.dumps({"serving": {"extra_args": [given]}}))
    with pytest.raises(ConfigError, match=sentence):
        config.load(str(preset))


@pytest.mark.parametrize(
    ("settings", "gpus", "sentence"),
    [
        ({"tensor_parallel": 2}, 0, "needs 2 GPUs, and this machine has none"),
        ({"tensor_parallel": 2, "data_parallel": 4}, 4, "needs 8 GPUs, and this machine has 4"),
        ({"tensor_parallel": 2, "devices": "1"}, 8, "needs 2 GPUs, and serving.devices names 1"),
        ({"tensor_parallel": 5}, 8, "does not divide the 28 attention heads of .*: use one of 1, 2, 4, 7, 14, 28"),
    ],
)
def test_what_the_machine_or_the_model_cannot_do_is_said_first(
    settings: dict[str, object], gpus: int, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"num_attention_heads": 28}}))
    with pytest.raises(EngineError, match=sentence):
        command.check(EngineConfig.model_validate(settings), lambda: gpus, tmp_path)


def test_what_fits_passes_and_one_engine_on_one_gpu_asks_for_nothing(tmp_path: Path) -> None:
    command.check(EngineConfig(tensor_parallel=2, data_parallel=2, devices="0,1,2,3"), lambda: 8, tmp_path)
    command.check(EngineConfig(), lambda: pytest.fail("torch was asked"), tmp_path)


def test_settings_equal_what_a_gateway_says_of_them_as_json() -> None:
    """Else a version that is served already would be deployed again."""
    settings = EngineConfig(extra_args=["--max-loras", "2"]).engine()
    assert json.loads(json.dumps(settings)) == settings


def test_a_base_of_the_hub_is_served_in_its_revision_and_a_folder_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []
    monkeypatch.setattr(vllm, "known_family", lambda _, revision: asked.append(revision))
    (tmp_path / "config.json").write_text("{}")
    lines = [
        VllmServer(name, EngineConfig(), Path("vllm.log"), revision="abc")._command()
        for name in ("owner/model", tmp_path)
    ]
    assert dict(itertools.pairwise(lines[0]))["--revision"] == "abc" and "--revision" not in lines[1]
    assert asked == ["abc", None]


@pytest.mark.server
def test_pictures_of_a_base_are_cut_in_the_engine_as_in_training() -> None:
    template, cutting = command.of_family(architecture.FAMILIES["lfm2_vl"])[1::2]
    assert template == architecture.PLAIN_LFM
    assert json.loads(cutting) == {"do_image_splitting": False, "min_tiles": 1, "max_tiles": 1}
    assert command.of_family(None) == []


@pytest.mark.skipif(not on_cpu(), reason="on a GPU it is tried: tests/storyreason/generation/test_inprocess.py")
def test_a_family_that_vllm_tells_wrongly_is_refused_before_work_and_before_an_engine_starts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "lfm2_vl"}')
    sentence = (
        r"^vLLM's build for CPUs tells another text of LFM2\.5-VL than transformers: train it with `--until train`"
    )
    with pytest.raises(EngineError, match=sentence):
        refuse_untold(tmp_path)
    refuse_untold(tmp_path / "not there yet")


@pytest.mark.server
@pytest.mark.long
def test_vllm_knows_the_options() -> None:
    vllm = Path(sys.executable).with_name("vllm")
    listed = subprocess.run([vllm, "serve", "--help=all"], capture_output=True, text=True, check=True).stdout
    for option in (*OWN_OPTIONS, "--generation-config", "--revision"):
        assert f"{option} " in listed, option


@pytest.mark.server
@pytest.mark.long
def test_vllm_says_that_its_build_for_cpus_has_no_sleep_mode(untrained: Path, tmp_path: Path) -> None:
    """A swap never asks for it: with the flag left out, `/sleep` is ignored there, and requests hang."""
    if not on_cpu():
        pytest.skip("a build for GPUs has it")
    engine = VllmServer(untrained, EngineConfig(extra_args=["--enable-sleep-mode"]), log=tmp_path / "vllm.log")
    with pytest.raises(
        EngineError, match=r"vLLM did not start on .*: Sleep mode is not supported on current platform\. "
    ):
        engine.start()

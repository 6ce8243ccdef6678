"""The model folder of an adapter: what it holds, where its base is, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest

from storyreason import adapters, config, dataset, model
from storyreason.errors import ConfigError, EngineError, ModelError
from storyreason.generation import GenerationConfig, answering, lora
from storyreason.generation.inprocess import InProcess
from tests.adapting import write_folder, write_result


def test_it_tells_what_the_merged_model_tells_wherever_it_is_moved_with_its_base(
    tiny_base: Path, tmp_path: Path, tiny_examples: list[dataset.Example]
) -> None:
    # Given both forms of one training
    home = tmp_path / "home"
    home.mkdir()
    base = Path(shutil.copytree(tiny_base, home / "base"))
    folder = write_folder(base, home / "model")
    merged = model.write_folder(str(base), home / "model-result", tmp_path / "merged", "", say=lambda _: None)
    # When the adapter's folder and its base are moved
    moved = home.rename(tmp_path / "elsewhere") / "model"
    # Then they tell the same, and no file names where they were
    asked = GenerationConfig(max_tokens=40)
    told = [
        answering.answer_by(InProcess(one), "1", tiny_examples[0].images[:2], asked).answer for one in (moved, merged)
    ]
    assert told[0] == told[1]
    assert not [path for path in moved.glob("*.json") if str(tmp_path) in path.read_text()]
    found = adapters.of(moved)
    assert found is not None and found.identity == model.load_identity(str(tiny_base)) and found.rank == 4
    assert adapters.of(merged) is None and adapters.of("Qwen/Qwen2.5-VL-7B-Instruct") is None
    assert folder.name == moved.name and (moved / "README.md").read_text() == "# An adapter\n"


def test_one_whose_base_is_gone_or_whose_files_are_damaged_says_so(tiny_base: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    folder = write_folder(base, tmp_path / "model")
    shutil.rmtree(base)
    with pytest.raises(ModelError, match=r"The base of the adapter .*model, a base, is gone from .*base: fetch it"):
        adapters.of(folder)
    (folder / adapters.FILE).write_text("{}")
    with pytest.raises(ModelError, match=r"model cannot be read .*: make or fetch it again"):
        adapters.of(folder)


def test_whole_weights_and_an_adapter_without_effect_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    def written(result: Path) -> None:
        model.write_adapter(str(tiny_base), "0", result, tmp_path / "model", "", "a base")

    with pytest.raises(ModelError, match=r"has whole weights, not an adapter: .*set registry\.form=merged"):
        written(tiny_base)
    result = write_result(tiny_base, tmp_path / "result")
    weights = load_file(result / adapters.WEIGHTS)
    begun = {key: one * (".lora_A." in key) for key, one in weights.items()}
    begun |= {
        key.replace("lora_A", "lora_magnitude_vector"): one[0].clone() for key, one in begun.items() if "lora_A" in key
    }
    save_file(begun, result / adapters.WEIGHTS)
    with pytest.raises(ModelError, match="changes no weight of its base"):
        written(result)
    assert not (tmp_path / "model").exists()


def test_what_vllm_does_not_take_is_refused_before_an_engine_starts(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"language_model.lora_A.weight": torch.ones(1)}, tmp_path / adapters.WEIGHTS)

    def of_rank(rank: int, dora: bool = False) -> adapters.Adapter:
        return adapters.Adapter(tmp_path, "base", None, "0", rank, dora)

    assert [lora.room(of_rank(rank)) for rank in (1, 4, 16, 24, 500, 512)] == [1, 8, 16, 32, 512, 512]
    with pytest.raises(EngineError, match=r"has rank 513, and vLLM takes 512 at most: merge it"):
        lora.room(of_rank(513))
    with pytest.raises(EngineError, match="was trained with DoRA, which vLLM does not take: merge it"):
        lora.room(of_rank(8, dora=True))
    save_file({"model.visual.blocks.0.lora_A.weight": torch.ones(1)}, tmp_path / adapters.WEIGHTS)
    with pytest.raises(EngineError, match="changes the vision tower, and vLLM gives other answers then: merge it"):
        lora.room(of_rank(8))


def test_vllm_has_these_ranks() -> None:
    from typing import get_args

    from vllm.config.lora import MaxLoRARanks

    assert get_args(MaxLoRARanks) == lora.RANKS


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ("training.mode=full", r"registry\.form=adapter needs training\.mode=lora, and it is full"),
        ("training.use_dora=true", r"vLLM does not take DoRA \(training\.use_dora\)"),
        ("training.targets=[attention,tower]", r"of the language model alone, and training\.targets has tower"),
        ("training.rank=2048", r"vLLM takes rank 512 at most, and training\.rank is 2048"),
    ],
)
def test_a_training_whose_adapter_could_not_be_served_does_not_begin(overrides: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        config.load("sample", ["registry.form=adapter", "training.mode=lora", overrides])


def test_the_largest_rank_of_its_layers_counts(tiny_base: Path, tmp_path: Path) -> None:
    folder = write_folder(tiny_base, tmp_path / "model")
    written = json.loads((folder / adapters.FILE).read_text())
    (folder / adapters.FILE).write_text(json.dumps(written | {"rank_pattern": {"q_proj": 24}}))
    found = adapters.of(folder)
    assert found is not None and found.rank == 24

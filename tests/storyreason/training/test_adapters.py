"""What LoRA reaches beyond attention: targets by name, a learning rate for each, DoRA and rank-stabilized scaling."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from storyreason import architecture, chat, model, training
from storyreason.errors import ModelError
from storyreason.training import Job, TrainingConfig, plan, setup
from storyreason.training.examples import StoryDataset
from storyreason.training.trainer import StoryTrainer
from storyreason.training.watch import Watch
from tests.storyreason.training.whole import FULL, LORA, Lines, files, losses, weights
from tests.tiny import Bases

EVERYTHING: dict[str, Any] = {
    **LORA,
    "targets": ("attention", "mlp", "merger", "tower"),
    "mlp_learning_rate": 1e-2,
    "tower_learning_rate": 1e-3,
    "merger_learning_rate": 1e-3,
    "use_dora": True,
    "use_rslora": True,
}


def test_each_target_reaches_layers_of_its_own_and_together_all_linear_ones(tiny_bases: Bases) -> None:
    for family in architecture.FAMILIES:
        base = model.load(str(tiny_bases(family)))
        reached = architecture.layers(base, architecture.TARGETS)
        for one, names in reached.items():
            assert names, (family, one)
            assert {architecture.target(f"{name}.weight") for name in names} == {one}
        linear = {name for name, module in base.named_modules() if isinstance(module, torch.nn.Linear)}
        left = linear - {name for names in reached.values() for name in names}
        assert {name for name in left if "patch_embed" not in name} == {"lm_head"}


def test_a_target_that_matches_nothing_is_refused(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainingConfig(mode="lora", dtype="float32", targets=("attention", "mlp"))
    job = Job(base=str(tiny_base), data=tiny_base, work=tiny_base, training=config)
    monkeypatch.setattr(architecture, "ADAPTED", {**architecture.ADAPTED, "mlp": r".*\.experts\.\d+"})
    family = architecture.Family("Qwen2.5-VL", boxes="resized")
    monkeypatch.setitem(architecture.FAMILIES, "qwen2_5_vl", family)
    sentence = (
        r"^training\.targets=mlp matches no layer of Qwen2_5_VLForConditionalGeneration: name others of attention"
    )
    with pytest.raises(ModelError, match=sentence):
        setup.load_model(job, cuda=False)


def optimizer(base: Path, work: Path, **config: Any) -> tuple[Any, torch.optim.Optimizer]:
    """A model and the optimizer that a training of it would have."""
    made = TrainingConfig.model_validate({**FULL, **config})
    job = Job(base=str(base), data=base, work=work, training=made)
    processor = model.load_processor(str(base))
    stories = StoryDataset([], [], chat.Encoder(processor), made)
    schedule = plan.Plan((((((0, 0),),),),), 1)
    net, settings = setup.load_model(job, cuda=False), setup.arguments(job, cuda=False)
    trainer = StoryTrainer(job, settings, net, schedule, stories, stories, Watch(), processor)
    return net, trainer.create_optimizer()


def groups(net: Any, made: torch.optim.Optimizer) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each trained weight's name and group."""
    names = {weight: name for name, weight in net.named_parameters()}
    for group in made.param_groups:
        yield from ((names[weight], group) for weight in group["params"])


@pytest.mark.parametrize("config", [EVERYTHING, {**EVERYTHING, "mode": "full"}])
def test_each_weight_has_the_learning_rate_of_its_target(
    config: dict[str, Any], tiny_base: Path, tmp_path: Path
) -> None:
    net, made = optimizer(tiny_base, tmp_path, **config)
    wanted = {"mlp": 1e-2, "merger": 1e-3, "tower": 1e-3}
    found = dict(groups(net, made))
    assert found.keys() == {name for name, weight in net.named_parameters() if weight.requires_grad}
    for name, group in found.items():
        assert group["lr"] == wanted.get(str(architecture.target(name)), 3e-2), name
    assert made.param_groups[0]["lr"] == 3e-2  # the one that is reported
    # and decays as it does without them
    none = dict.fromkeys(("mlp_learning_rate", "tower_learning_rate", "merger_learning_rate"))
    net, plain = optimizer(tiny_base, tmp_path, **{**config, **none})
    for name, group in groups(net, plain):
        assert (group["lr"], group["weight_decay"]) == (3e-2, found[name]["weight_decay"])


@pytest.mark.server
@pytest.mark.long
def test_adapters_everywhere_are_trained_resumed_exactly_and_change_every_target(
    tiny_bases: Bases, tiny_data: Path, tmp_path: Path
) -> None:
    def job(name: str) -> Job:
        made = TrainingConfig.model_validate({**FULL, **EVERYTHING, "max_steps": 4, "pack_tokens": 4096})
        return Job(base=str(tiny_bases("qwen3_vl")), data=tiny_data, work=tmp_path / name, training=made)

    calm, stirred = job("calm"), job("stirred")
    told = Lines()
    result = training.run(calm, told, env={"OMP_NUM_THREADS": "1"})
    assert not told.of("features")  # they change with every step
    assert told.of("step")[-1]["loss"] < told.of("step")[0]["loss"]
    with pytest.raises(KeyboardInterrupt):
        training.run(stirred, Lines(stop_at=("step", 3)), env={"OMP_NUM_THREADS": "1"})
    assert files(training.run(stirred, Lines(), env={"OMP_NUM_THREADS": "1"})) == files(result)
    assert losses(stirred) == losses(calm)
    moved = {architecture.target(name) for name, one in weights(result).items() if "lora_B" in name and one.any()}
    assert moved == set(architecture.TARGETS)

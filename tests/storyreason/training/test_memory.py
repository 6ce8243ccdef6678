"""What a training will take: counted without weights, and the same when it is counted with them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from typer.testing import CliRunner

from storyreason import architecture, chat, dataset, model
from storyreason.cli import app
from storyreason.compat.memory import Allocated
from storyreason.config import load
from storyreason.errors import ConfigError
from storyreason.training import (
    ImproveConfig,
    Job,
    TrainingConfig,
    choosing,
    launch,
    memory,
    packing,
    preferring,
    rewarded,
    setup,
)
from storyreason.training.config import Recompute
from storyreason.training.examples import StoryDataset, collate
from storyreason.training.memory import Row
from storyreason.training.trainer import token_losses
from tests.tiny import Bases

MODES: list[dict[str, Any]] = [
    {"mode": "lora", "recompute": "none"},
    {"mode": "language", "recompute": "selective"},
    {"mode": "full", "recompute": "none"},
    {"mode": "full", "recompute": "all"},
]


def counted(base: str, training: TrainingConfig, examples: Sequence[dataset.Example]) -> tuple[int, Row]:
    """What a story allocates in a real pass, and its row."""
    net = setup.load_model(Job(base=base, data=Path(base), work=Path(base), training=training), cuda=False).train()
    if training.recompute != "none":
        net.gradient_checkpointing_enable(gradient_checkpointing_kwargs=setup.checkpointing(training.recompute))
    stories = StoryDataset(examples, range(1), chat.Encoder(model.load_processor(base)), training)
    batch = collate([stories[0, 0]], pad=0)
    labels = batch.pop("labels")
    token_losses(net, batch, labels).backward()  # so that gradients are there
    gradients = [weight.grad for weight in net.parameters() if weight.grad is not None]
    with Allocated((*net.parameters(), *net.buffers(), *gradients, *batch.values(), labels)) as found:
        token_losses(net, batch, labels).backward()
    # They are there for as long as the tower's activations, and the plan counts them with these.
    pixels = batch["pixel_values"].nbytes if training.mode == "full" else 0
    return found.peak + pixels, Row(stories.tokens((0, 0)), stories.loss_tokens((0, 0)), 4 * stories.image_tokens(0))


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        *((family, settings) for family in ("qwen2_5_vl", "qwen3_vl") for settings in MODES),
        ("qwen3_5", MODES[-2]),  # the recurrence of its layers takes seconds
    ],
)
def test_activations_are_those_of_a_real_pass(
    family: str, settings: dict[str, Any], tiny_bases: Bases, tiny_examples: list[dataset.Example]
) -> None:
    base = str(tiny_bases(family))
    training = TrainingConfig(**{"dtype": "float32", "accelerate": "cpu", "rank": 4, "feature_cache_gb": 0, **settings})
    real, row = counted(base, training, tiny_examples)
    found = memory.of(model.config(base), training, row)
    assert found.activations + found.logits == pytest.approx(real, rel=0.06)
    weights = {name: p.numel() for name, p in model.load(base).named_parameters()}
    if settings["mode"] != "lora":
        trained = [size for name, size in weights.items() if settings["mode"] == "full" or "visual" not in name]
        assert found.weights == 4 * sum(weights.values())
        assert (found.gradients, found.optimizer) == (4 * sum(trained), 8 * sum(trained))


@pytest.mark.parametrize("method", ["dpo", "grpo"])
def test_activations_of_preferences_and_rewards_are_those_of_a_real_pass(
    method: Literal["dpo", "grpo"], tiny_base: Path, tiny_examples: list[dataset.Example]
) -> None:
    # Given a row as it passes: two answers with their prompts, which are packed; or one, whose tokens have a weight each
    improve = ImproveConfig(method=method)
    training = TrainingConfig(
        mode="lora", dtype="float32", accelerate="cpu", rank=4, recompute="none", pack_tokens=16_384
    )
    job = Job(base=str(tiny_base), data=tiny_base, work=tiny_base, training=training, improve=improve)
    net = setup.load_model(job, cuda=False).train()
    stories = StoryDataset(tiny_examples, range(1), chat.Encoder(model.load_processor(job.base)), training)
    answers = [stories[0, 0]] * memory.documents(improve)
    batch = packing.join(answers, positions=packing.positions_of(net))
    labels = batch.pop("labels")
    with torch.no_grad():  # the tower's features are kept
        seen = architecture.see(architecture.inside(net), batch.pop("pixel_values"), batch["image_grid_thw"])
        given = architecture.arguments({**batch, "features": torch.cat(list(seen))}, net.config)

    def learn() -> None:
        if method == "dpo":
            found = preferring.log_probabilities(net, given, labels).view(-1, 2)
            loss = preferring.preferences(found, torch.zeros_like(found), improve.beta)[0].sum()
        else:
            found = preferring.of_tokens(net, given, labels)
            loss = rewarded.policy(found, found.detach(), torch.ones_like(found), improve)[0].sum()
        loss.backward()

    # When it passes a second time, with gradients there
    learn()
    held = [weight.grad for weight in net.parameters() if weight.grad is not None]
    with Allocated((*net.parameters(), *net.buffers(), *held, *batch.values(), labels)) as counted:
        learn()
    # Then the plan agrees, and says more than of a supervised training, in which adapters drop out
    of_one = (stories.tokens((0, 0)), stories.loss_tokens((0, 0)))
    row = Row(*(len(answers) * size for size in of_one))
    found = memory.of(model.config(job.base), training, row, improve)
    assert found.activations + found.logits == pytest.approx(counted.peak, rel=0.06)
    assert found.activations < memory.of(model.config(job.base), training, row).activations


def test_the_plan_of_an_improvement_counts_its_rows_and_the_logits_that_it_needs(tiny_base: Path) -> None:
    config, training = (
        model.config(str(tiny_base)),
        TrainingConfig(accelerate="1gpu", pack_tokens=4096, max_tokens=4096),
    )
    # A pair may be as long as two stories, and then has a row of its own
    dpo, grpo = ImproveConfig(method="dpo"), ImproveConfig(method="grpo")
    assert [choosing.rows_of(training, one)[-1].tokens for one in (None, dpo, grpo)] == [4096, 8192, 4096]
    padded = training.model_copy(update={"pack_tokens": None, "batch_size": 3})
    assert [choosing.rows_of(padded, one)[-1].tokens for one in (None, dpo)] == [3 * 4096, 6 * 4096]
    # Liger's loss in chunks gives no log-probabilities
    row = Row(4096, 3072)
    plain, paired = (memory.of(config, training, row, one) for one in (None, dpo))
    assert paired.logits > 10 * plain.logits
    assert paired.weights == plain.weights  # no second model
    # On a CPU the weights at the start stay beside those that learn, from the second round on
    on_cpu = training.model_copy(update={"accelerate": "cpu", "dtype": "float32"})
    one, more = (memory.of(config, on_cpu, row, grpo.model_copy(update={"rounds": rounds})) for rounds in (1, 2))
    assert more.weights - one.weights == one.gradients


def test_a_plan_with_an_improvement_shows_both_steps(tiny_base: Path) -> None:
    changed = ("base.name=" + str(tiny_base), "improve.method=dpo")
    run = CliRunner().invoke(app, ["plan", "sample", *(word for one in changed for word in ("--set", one))])
    assert run.exit_code == 0, run.output
    assert (
        "then improve.method=dpo (pairs of two answers, each with the prompt, in one row), rows of up to 4,096"
        in run.output
    )
    totals = [float(line.split()[1]) for line in run.output.splitlines() if line.split()[0] == "total"]
    larger = run.output.partition("The larger of both, and with other settings:\n")[2].split()
    assert len(totals) == 2 and float(larger[0]) == max(totals) == totals[1]


MEASURED = json.loads(Path("benchmarks/results/gpu.json").read_text())["lines"]


def seven() -> Any:
    """The configuration that the benchmark on a GPU measured: Qwen2.5-VL 7B's."""
    from transformers import Qwen2_5_VLConfig

    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "rope_parameters": rope,
        },
        vision_config={
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
        },
        tie_word_embeddings=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("variant", "recompute", "row"),
    [
        ("32k rows, recompute all", "all", Row(27_985, 21_393)),
        ("16k rows, selective", "selective", Row(14_278, 10_982)),
        ("+ Liger's rope", "none", Row(9_748, 6_452)),
        ("+ 14k rows", "none", Row(14_278, 10_982)),
        ("32k story, selective", "selective", Row(32_768, 31_120)),
    ],
)
def test_the_plan_is_what_an_h100_took(variant: str, recompute: Recompute, row: Row) -> None:
    training = TrainingConfig(mode="lora", accelerate="1gpu", recompute=recompute, pack_tokens=row.tokens)
    took = next(line["peak_gb"] for line in MEASURED if line.get("variant") == variant)
    found = memory.of(seven(), training, row)
    assert (found.total - found.other) / memory.GB == pytest.approx(took, rel=0.02)  # torch counts its tensors alone


def test_where_only_longer_rows_are_recomputed_the_larger_of_both_counts() -> None:
    training = TrainingConfig(accelerate="1gpu", recompute="long", pack_tokens=8192, max_tokens=32_768)
    as_it_is = next(choosing.choices(seven(), training)).memory
    kept = memory.of(seven(), training, Row(8192, 6144))
    again = memory.of(seven(), training, Row(32_768, 24_576))
    assert as_it_is == max((kept, again), key=lambda one: one.total) == kept


def test_shards_are_parts_and_what_is_gathered_is_not(tiny_base: Path) -> None:
    config, row = model.config(str(tiny_base)), Row(2048, 1536)
    numbers = sum(p.numel() for p in model.load(str(tiny_base)).parameters())

    def of(name: str, **settings: Any) -> memory.Memory:
        return memory.of(config, TrainingConfig(**{"mode": "full", "accelerate": name, "rank": 4, **settings}), row)

    one, eight, offloaded = of("1gpu"), of("fsdp2-8gpu"), of("fsdp2-2gpu-offload")
    assert (one.weights, one.gradients, one.optimizer) == (4 * numbers, 4 * numbers, 8 * numbers)
    assert (eight.weights, eight.gradients, eight.optimizer) == (4 * numbers // 8 + 2 * numbers, 4 * numbers, numbers)
    assert (offloaded.weights, offloaded.optimizer) == (2 * numbers, 0)
    # Adapters on a frozen base in bfloat16, whose tower is left out, or needed
    kept, dropped = of("1gpu", mode="lora", feature_cache_gb=0), of("1gpu", mode="lora")
    tower = sum(p.numel() for name, p in model.load(str(tiny_base)).named_parameters() if architecture.in_tower(name))
    assert kept.weights - dropped.weights == 2 * tower
    assert kept.weights < one.weights < 3 * kept.weights
    # Logits are the most of a long answer's memory, but in chunks they are not
    assert of("1gpu", liger=False).logits > 10 * one.logits


def test_a_plan_names_settings_that_fit(tiny_base: Path) -> None:
    run = CliRunner().invoke(app, ["plan", "sample", "--set", f"base.name={tiny_base}", "--gpus", "2", "--gb", "80"])
    assert run.exit_code == 0, run.output
    assert "training.mode=language, rows of up to 2,048 tokens, 2 GPUs; GB of each:" in run.output
    assert "of 80" in run.output
    assert "fits      as it is" in run.output
    assert "training.recompute=all training.accelerate=fsdp2-2gpu-offload" in run.output
    with pytest.raises(ConfigError, match=r"is for 3 GPUs of one machine: take 1, 2, 8, or name"):
        choosing.on_gpus(TrainingConfig(), 3)


def test_no_shards_are_proposed_for_a_base_in_four_bits() -> None:
    training = load("qwen3-vl-8b-qlora-24gb").training
    assert not [one for one in choosing._others(training) if "accelerate" in one]


def test_with_data_the_rows_are_those_of_its_stories(
    tiny_base: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    arguments = ["plan", "smoke", "--data", str(tiny_data), "--set", f"base.name={tiny_base}"]
    run = CliRunner().invoke(app, [*arguments, "--set", "training.max_tokens=4096"])
    assert run.exit_code == 0, run.output
    tokens = int(run.output.partition("rows of up to ")[2].partition(" tokens")[0].replace(",", ""))
    assert 500 < tokens < 4096


def test_what_ran_out_of_memory_is_told_what_would_fit(tiny_base: Path, tmp_path: Path) -> None:
    training = TrainingConfig(mode="full", accelerate="1gpu", recompute="none", pack_tokens=16_384, max_tokens=16_384)
    job = Job(base=str(tiny_base), data=tmp_path, work=tmp_path, training=training)
    (tmp_path / "log.txt").write_text("torch.OutOfMemoryError: CUDA out of memory")
    said = str(launch._explained(1, tmp_path / "log.txt", 0, job))
    assert "By `storyreason plan` it takes up to" in said
    assert "; training.recompute=selective (" in said and "would fit." in said
    # and where nothing can be told, nothing is
    gone = job.model_copy(update={"base": str(tmp_path / "gone")})
    assert "storyreason plan" not in str(launch._explained(1, tmp_path / "log.txt", 0, gone))

"""Which settings of a training fit into a device's memory: `storyreason plan`, and the advice after a training ran out of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from storyreason.errors import ConfigError
from storyreason.training import machine, memory
from storyreason.training.config import ImproveConfig, TrainingConfig
from storyreason.training.memory import Memory, Row

ANSWERS, PICTURES = 0.75, 0.25
"""The shares of a published story's 6,642 tokens that are its answer's (4,994) and its pictures' (1,400)."""
LEAST = 4096
"""Rows of fewer tokens are not proposed."""
NAMED = 3
"""How many settings a message names."""


@dataclass(frozen=True)
class Choice:
    """Settings, by their keys without `training.`, that differ from those of a run, and what a training with them takes."""

    settings: dict[str, Any]
    memory: Memory

    def words(self) -> str:
        return " ".join(f"training.{key}={value}" for key, value in self.settings.items()) or "as it is"


def rows_of(training: TrainingConfig, improve: ImproveConfig | None = None) -> tuple[Row, ...]:
    """The largest row that a configuration allows, of stories like the published ones, or of pairs or answers with `improve`;
    with `recompute: long`, first the largest of those that are not recomputed. A pair is in one row, as long as two stories."""
    if improve:
        training = training.model_copy(update={"loss": "answer"})
    one = memory.documents(improve) * training.max_tokens
    if not training.pack_tokens:
        return (_row(training, training.batch_size * one),)
    longest = max(training.pack_tokens, one)
    kept = (training.pack_tokens,) if training.recompute == "long" and training.pack_tokens < longest else ()
    return tuple(_row(training, tokens) for tokens in (*kept, longest))


def _row(training: TrainingConfig, tokens: int) -> Row:
    labels = tokens if training.loss == "all" else int(ANSWERS * tokens)
    return Row(tokens, labels, int(4 * PICTURES * tokens))


def choices(
    config: Any, training: TrainingConfig, rows: Sequence[Row] = (), improve: ImproveConfig | None = None
) -> Iterator[Choice]:
    """What a training of a base with this configuration takes as it is, and with other settings, or its improvement. Without
    `rows`, the largest that each allows."""
    for settings in ({}, *_others(training)):
        changed = training.model_copy(update=settings)
        taken = rows_of(changed, improve) if not rows or "max_tokens" in settings else rows
        found = (memory.of(config, changed, row, improve) for row in taken)
        yield Choice(settings, max(found, key=lambda one: one.total))


def _others(training: TrainingConfig) -> Iterator[dict[str, Any]]:
    for recompute in ("none", "selective", "all"):
        if recompute != training.recompute:
            yield {"recompute": recompute}
    again = {"recompute": "all"} if training.recompute != "all" else {}
    tokens = rows_of(training)[-1].tokens // 2
    while tokens >= LEAST:
        yield {**again, "pack_tokens": tokens, "max_tokens": tokens}
        tokens //= 2
    place = machine.Machine.of(training)
    # A base in four bits cannot be sharded.
    for name in () if place.on_cpu or training.quantize else sharded(place.processes):
        if name != training.accelerate:
            yield {**again, "accelerate": name}
    if training.mode != "lora":
        yield {**again, "mode": "lora"}
    elif not training.quantize and place.fsdp is None:
        yield {"quantize": "nf4"}
        if again:
            yield {**again, "quantize": "nf4"}


def sharded(least: int) -> list[str]:
    """The files for this many GPUs of one machine, and for more, fewest first."""
    found = {path.stem: machine.settings(path) for path in machine.CONFIGS.glob("*.yaml")}
    there = [name for name, said in found.items() if not said["use_cpu"] and said["num_machines"] == 1]
    return sorted(
        (name for name in there if found[name]["num_processes"] >= least), key=lambda name: (_gpus(name), name)
    )


def _gpus(name: str) -> int:
    return int(machine.settings(machine.config_file(name))["num_processes"])


def on_gpus(training: TrainingConfig, gpus: int) -> TrainingConfig:
    """The same on this many GPUs of one machine. Raises ConfigError when no file of deploy/accelerate is for them."""
    names = [name for name in sharded(1) if _gpus(name) == gpus]
    if not names:
        known = sorted({_gpus(name) for name in sharded(1)})
        raise ConfigError(
            f"No file of deploy/accelerate is for {gpus} GPUs of one machine: take {', '.join(map(str, known))}, or name a file "
            "of yours with --set training.accelerate=FILE."
        )
    kept = training.accelerate if training.accelerate in names else names[0]
    return training.model_copy(update={"accelerate": kept, "dtype": training.dtype})


def capacity(training: TrainingConfig) -> float | None:
    """The GB that each process may take here: those of the smallest GPU, or a part of this machine's; None: no such GPU."""
    place = machine.Machine.of(training)
    if place.on_cpu:
        import psutil

        return float(psutil.virtual_memory().total / memory.GB / place.local_processes)
    totals = machine.total_memory(training.devices)
    return min(totals) / memory.GB if totals else None


def advice(base: str, revision: str | None, training: TrainingConfig, improve: ImproveConfig | None = None) -> str:
    """A sentence for a training that ran out of memory: what it should take, and settings that take less and fit."""
    from storyreason import model

    made = list(choices(model.config(base, revision), training, improve=improve))
    now, gb = made[0].memory.total, capacity(training)
    fitting = [one for one in made[1:] if one.memory.total < now and (gb is None or one.memory.total <= gb * memory.GB)]
    said = [f"{one.words()} ({one.memory.total / memory.GB:.1f} GB)" for one in fitting[:NAMED]]
    has = f" of {gb:.1f}" if gb else ""
    instead = f"; {' or '.join(said)} would fit" if said else ""
    return f"By `storyreason plan` it takes up to {now / memory.GB:.1f} GB{has}{instead}."

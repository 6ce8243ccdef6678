"""Modes `language` and `full` at 7B's width, with as many layers as fit: seconds of the passes and of the optimizer."""

import torch

from benchmarks.gpu.common import DRY, failure_reported, free_memory, peak_gb, report, seconds, seconds_left
from benchmarks.gpu.seven import Mode, Subject, trainer_loss
from storyreason.training import setup

PACK = 16_384


def sizes() -> list[tuple[Mode, int]]:
    """Modes and layers, those first that may not fit: 16 bytes for each trained number."""
    if DRY:
        return [("language", 2), ("full", 2)]
    fitting: list[tuple[Mode, int]] = [("language", 8), ("full", 6)]
    large = torch.cuda.get_device_properties(0).total_memory / 2**30 > 130
    return [("language", 28), *fitting] if large else fitting


def measure() -> None:
    """Two steps of four stories each; where the whole model fits, its part is left out."""
    whole = False
    for mode, layers in sizes():
        if seconds_left() < 15:
            break
        if mode == "language" and whole:
            continue
        with failure_reported(mode=mode, layers=layers):
            free_memory()
            two_steps(mode, layers)
            whole = whole or layers == 28


def two_steps(mode: Mode, layers: int) -> None:
    subject = Subject(mode, layers, stories=8)
    subject.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs=setup.checkpointing("all"))
    for step, chosen in enumerate((range(4), range(4, 8))):
        found: list[tuple[int, float]] = []

        def passes(chosen: range = chosen, found: list[tuple[int, float]] = found) -> None:
            found.append(subject.passes(chosen, PACK, trainer_loss))

        passes_s, optimizer_s = seconds(passes), seconds(subject.update)
        rows, loss = found[0]
        report(
            mode=mode,
            layers=layers,
            step=step,
            rows=rows,
            passes_s=passes_s,
            optimizer_s=optimizer_s,
            **subject.figures(chosen, passes_s + optimizer_s),
            peak_gb=peak_gb(),
            loss=loss,
        )

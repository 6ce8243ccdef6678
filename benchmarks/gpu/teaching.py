"""How many steps a second the tiny base model is taught on this device, with frames drawn by other processes."""

import os
import random
import time
from typing import Any

import torch
import torch.multiprocessing

from benchmarks.gpu.common import DEVICE, DRY, WORK, peak_gb, report, restored, seconds, seconds_left
from storyreason import model
from storyreason.sample import base as making
from storyreason.sample import looking, teaching


def produce(seed: int, base: str, out: Any) -> None:
    """Draw batches for ever."""
    torch.set_num_threads(1)
    processor = model.load_processor(base)
    number = 0
    while True:
        luck = random.Random(f"benchmark/{seed}/{number}")
        batch = making.batch_of(teaching.lessons(luck, 0.5, making.FRAMES_PER_STEP), processor)
        out.put({name: tensor.numpy() for name, tensor in batch.items()})
        number += 1


class Learner:
    """As `sample.teaching` trains, on this device."""

    def __init__(self, base: str) -> None:
        net: Any = making.new_model(model.load_processor(base))
        self.net = net.to(DEVICE).train()
        self.pointer = torch.nn.Linear(self.net.lm_head.in_features, teaching.MOST_PICTURES).to(DEVICE)
        self.parameters = [*self.net.parameters(), *self.pointer.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01, fused=not DRY
        )

    def step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        batch = {name: tensor.to(DEVICE, non_blocking=True) for name, tensor in batch.items()}
        pictures = batch.pop("pictures")
        with torch.autocast(DEVICE, torch.bfloat16):
            out = self.net(**batch, output_hidden_states=True)
        pointing = looking.pointing_loss(self.pointer, out.hidden_states[teaching.POINTING_LAYER], pictures)
        (out.loss + teaching.POINTING * pointing).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss: torch.Tensor = out.loss.detach()
        return loss


def measure() -> None:
    """Steps per second of one batch again and again, and of batches as fast as other processes draw them."""
    folder = restored("tiny-base.dvc", WORK / "base")
    workers = 1 if DRY else max(1, len(os.sched_getaffinity(0)) - 2)
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue(maxsize=64)
    others = [context.Process(target=produce, args=(seed, str(folder), queue), daemon=True) for seed in range(workers)]
    for other in others:
        other.start()
    try:
        _measure(Learner(str(folder)), queue, workers)
    finally:
        for other in others:
            other.terminate()


def _measure(learner: Learner, queue: Any, workers: int) -> None:
    def drawn() -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(array) for name, array in queue.get(timeout=120).items()}

    batch, count = drawn(), 3 if DRY else 40
    for _ in range(3):
        learner.step(batch)
    spent = seconds(lambda: [learner.step(batch) for _ in range(count)])
    most = min(8.0 if DRY else 20.0, seconds_left() - 10)
    losses: list[torch.Tensor] = []

    def fed() -> None:
        until = time.perf_counter() + most
        while time.perf_counter() < until:
            losses.append(learner.step(drawn()))

    fed_spent = seconds(fed)
    report(
        workers=workers,
        steps_per_s_of_one_batch=count / spent,
        steps_per_s_fed=len(losses) / fed_spent,
        minutes_for_1800_steps=1800 * fed_spent / max(1, len(losses)) / 60,
        loss=float(losses[-1]) if losses else None,
        peak_gb=peak_gb(),
    )

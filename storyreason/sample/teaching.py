"""Trains the tiny base model: on texts, to look back into them, and on frames, to see, name and locate what they show.

It learns to see first: taught texts first, and both from then on, it never learnt boxes (F1 0.17 after 1,950 steps). What
texts alone then take from it (F1 0.09 from 0.90, after 120 steps), steps of both give back.
"""

import math
import signal
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from storyreason.errors import ConfigError
from storyreason.guard import PR_SET_PDEATHSIG, prctl
from storyreason.model import fast_products
from storyreason.sample import tower
from storyreason.sample.base import BACK, new_model, save, vocabulary_texts
from storyreason.sample.curriculum import Batch, Batches, Course, Views, drawn
from storyreason.sample.exam import copies, figures
from storyreason.sample.looking import looking_loss, pointing_loss, words_of
from storyreason.sample.tokenizer import make_processor

LEARNING_RATE = 1e-3
WARMUP_STEPS = 100
POINTING_LAYER = 2
POINTING = 0.5
"""Weight of an auxiliary loss: a linear probe, discarded after training, must read from this layer which picture each token
belongs to or is about. With the loss of the answers alone, "image 3" still meant any picture after 1,750 steps."""
MOST_PICTURES = 8
READING_STEPS = 150
"""Steps of short texts alone, after those of frames alone."""
BOTH_STEPS = 1350
"""Steps of texts and frames, after those."""
LAST_STEPS = 1500
"""Steps of frames, half of which have texts too, at the end: texts are half of a step's time, and copying is learnt by then,
boxes are not."""
LOOKING = 1.5
"""Weight of the auxiliary loss of texts (`looking.py`). After 150 steps without it, 13 % of nonsense words' tokens were
repeated right from 50 tokens back; with it, 40 %, but the first 120 of these steps held short texts alone."""


@dataclass(frozen=True, slots=True)
class BaseProgress:
    """One line of the log: the mean loss since the last one, and box F1 on frames with unseen people and backgrounds."""

    step: int
    steps: int
    loss: float
    seconds: float
    f1: float | None = None
    text_loss: float = math.nan
    copied: tuple[float, ...] = ()
    """Copy accuracy at each distance of `BACK`."""
    tower: float | None = None
    """The vision tower's accuracy, once, before the first step of this process."""

    def __str__(self) -> str:
        if self.tower is not None:
            again = f"goes on after step {self.step}/{self.steps}  " if self.step else ""
            return (
                f"{again}vision tower: {self.tower:.1%} of the answers about grid cells correct  {self.seconds:.0f} s"
            )
        f1 = "" if self.f1 is None else f"  box F1 on unseen frames {self.f1:.3f}"
        pairs = zip(BACK, self.copied, strict=True) if self.copied else ()
        copied = ", ".join(f"{accuracy:.0%} from {back} tokens back" for back, accuracy in pairs)
        told = f"{f1}{'  copied ' if copied else ''}{copied}"
        losses = {"loss": self.loss, "loss of texts": self.text_loss}
        known = "".join(f"  {name} {loss:.4f}" for name, loss in losses.items() if not math.isnan(loss))
        return f"step {self.step}/{self.steps}{known}  {self.seconds:.0f} s{told}"


def train(
    out: Path,
    steps: int,
    text_tokens: int = 0,
    seed: int = 0,
    processes: int = 2,
    report_every: int = 50,
    tower_steps: int = 800,
    evaluated: int = 256,
    reading_steps: int = READING_STEPS,
    both_steps: int = BOTH_STEPS,
    last_steps: int = LAST_STEPS,
    device: str = "cpu",
) -> Generator[BaseProgress, None, None]:
    """Train a new base for `steps` steps of frames, and save it to `out`, also after every 250 steps.

    With `text_tokens`, `reading_steps` steps of as many tokens of texts follow, then `both_steps` of texts and frames, and
    then `last_steps` of frames, half of which have texts too.

    A training that was killed goes on after its last report when it is started again with the same settings. It keeps its
    state beside `out`, in a hidden file. Raises ConfigError when it was started with others: hours of work stay where they are.

    The final figures are measured on `evaluated` frames, the earlier ones on an eighth of them.

    The vision tower is trained alone before all this (`tower.py`).

    Each process has one thread and its share of a step's lessons, and gradients are averaged. Processes wait for each
    other once per step, threads in every operation, which is slow on a busy machine. Matrix products run in bfloat16
    where that is fast (autocast); weights and optimizer are float32. On another device than the CPU there is one process.
    """
    import torch.multiprocessing

    processes = processes if device == "cpu" else 1
    after = (reading_steps, both_steps, last_steps) if text_tokens else (0, 0, 0)
    course = Course(steps, text_tokens, *after, seed, processes, report_every, tower_steps, evaluated, device)
    _unfinished(out, course)  # refused before any process starts
    context = torch.multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        others = [
            context.Process(target=_follow, args=(course, meeting, rank, out), daemon=True)
            for rank in range(1, processes)
        ]
        for other in others:
            other.start()
        try:
            yield from _train(course, meeting, 0, out)
            for other in others:
                other.join(timeout=10)
        finally:
            for other in others:
                other.kill()


def _follow(course: Course, meeting: str, rank: int, out: Path) -> None:
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # else it tells of a broken connection when the first process is killed
    for _ in _train(course, meeting, rank, out):
        pass


def _train(course: Course, meeting: str, rank: int, out: Path) -> Iterator[BaseProgress]:
    """The work of each process. The first one evaluates, saves and reports."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    torch.backends.cuda.enable_cudnn_sdp(False)  # it builds a kernel, 190 ms, for each new length, and texts have many
    dist.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=course.processes, timeout=timedelta(minutes=10)
    )
    try:
        yield from _steps(course, rank, out)
    finally:
        dist.destroy_process_group()


def _steps(course: Course, rank: int, out: Path) -> Iterator[BaseProgress]:
    """Teach, in a process group, from the first step or from where a training was killed."""
    processor = make_processor(vocabulary_texts(course.seed))
    model: Any = new_model(processor, course.seed)
    model.to(course.device)
    began, total = time.monotonic(), course.total
    if (state := _unfinished(out, course)) is None:
        views = drawn(Views(processor, course, rank), 0, course.tower_steps, course.device)
        right = tower.teach(
            model, views, course.tower_steps, lambda parameters: _average_gradients(parameters, course.processes)
        )
        learner, done = _Learner(model, course, processor), 0
    else:
        learner, done, right = _Learner(model, course, processor), state["step"], state["tower"]
        learner.load(state["learner"])
        began -= state["seconds"]
    if rank == 0:
        yield BaseProgress(done, total, 0.0, time.monotonic() - began, tower=right)
    losses: list[tuple[float, float]] = []
    for step, batches in enumerate(drawn(Batches(processor, course, rank), done, total, course.device), done + 1):
        losses.append(learner.step(batches))
        if rank == 0 and (step % course.report_every == 0 or step == total):
            loss, text_loss = (_mean(column) for column in zip(*losses, strict=True))
            progress = BaseProgress(step, total, loss, time.monotonic() - began, text_loss=text_loss)
            told = _measured(model, processor, out, course, progress)
            _keep(out, course, step=step, tower=right, seconds=time.monotonic() - began, learner=learner.state())
            yield told
        if step % course.report_every == 0:
            losses = []
    if rank == 0:
        _state_file(out).unlink()


def _state_file(out: Path) -> Path:
    return out.with_name(f".{out.name}.unfinished.pt")


def _keep(out: Path, course: Course, **state: Any) -> None:
    """Write what a training goes on from."""
    import torch

    out.parent.mkdir(parents=True, exist_ok=True)
    beside = _state_file(out).with_suffix(".new")
    torch.save({"course": asdict(course), **state}, beside)
    beside.rename(_state_file(out))


def _unfinished(out: Path, course: Course) -> dict[str, Any] | None:
    """What a training with the same settings was killed at, if one was. Raises ConfigError when its settings were others."""
    import torch

    if not _state_file(out).is_file():
        return None
    state: dict[str, Any] = torch.load(_state_file(out), map_location=course.device, weights_only=True)
    if state["course"] == asdict(course):
        return state
    begun, wanted = state["course"], asdict(course)
    differ = ", ".join(f"{key}={begun.get(key)}" for key in wanted if begun.get(key) != wanted[key])
    raise ConfigError(
        f"{_state_file(out)} holds a training of {state['step']} steps that was begun with {differ}: go on with these "
        "settings, choose another --out, or delete that file."
    )


def _mean(losses: Iterable[float]) -> float:
    """The mean of the losses that are known, NaN if none is."""
    known = [loss for loss in losses if not math.isnan(loss)]
    return sum(known) / len(known) if known else math.nan


class _Learner:
    """The model with its optimizer, and the linear probe of an auxiliary loss."""

    def __init__(self, model: Any, course: Course, processor: Any) -> None:
        import torch

        self.model, self.course = model, course
        self.words = words_of(processor.tokenizer).to(model.device)
        width = model.lm_head.in_features
        self.pointer = torch.nn.Linear(width, MOST_PICTURES, device=model.device)
        seeing = list(model.model.visual.parameters())
        rest = [parameter for name, parameter in model.named_parameters() if ".visual." not in name]
        self.parameters = [*model.parameters(), *self.pointer.parameters()]
        rest += self.pointer.parameters()
        groups: list[dict[str, Any]] = [{"params": seeing, "lr": 0.3 * LEARNING_RATE}, {"params": rest}]
        fused = course.device != "cpu"
        self.optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=fused)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: _rate(step, course))

    def state(self) -> dict[str, Any]:
        """All that the steps to come depend on."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load(self, state: dict[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("model", "pointer", "optimizer", "schedule")}

    def step(self, batches: Iterable[Batch]) -> tuple[float, float]:
        """One optimizer step on this process' batches. Returns the losses of the answers: about frames, about texts, NaN
        where there are none."""
        import torch

        self.model.train()
        losses = {"pixel_values" in batch: self._learn(batch) for batch in batches}
        _average_gradients(self.parameters, self.course.processes)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return losses.get(True, math.nan), losses.get(False, math.nan)

    def _learn(self, batch: Batch) -> float:
        """Add the gradients of a batch; returns the loss of its answers."""
        import torch

        model = self.model
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        about, labels = batch.pop("about"), batch.pop("labels")[:, 1:]
        learnt = labels != -100
        with fast_products(model.device.type):
            output = model.model(**batch, output_hidden_states=True)
            # Logits where something is learnt, about a third of all places.
            logits = model.lm_head(output.last_hidden_state[:, :-1][learnt])
        loss = torch.nn.functional.cross_entropy(logits.float(), labels[learnt])
        if "pixel_values" in batch:
            other = POINTING * pointing_loss(self.pointer, output.hidden_states[POINTING_LAYER], about)
        else:
            other = LOOKING * looking_loss(model, output.hidden_states, batch, self.words, about)
        (loss + other).backward()
        return float(loss.item())


def _measured(model: Any, processor: Any, out: Path, course: Course, progress: BaseProgress) -> BaseProgress:
    """Measure copying once there are texts; after every fifth report and at the end, measure all and save it to `out`."""
    total, step = course.total, progress.step
    copied: tuple[float, ...] = ()
    if course.text_tokens and step > course.steps:
        copied = copies(model, processor, max(8, course.evaluated // (4 if step == total else 32)))
        progress = replace(progress, copied=copied)
    if step % (5 * course.report_every) and step != total:
        return progress
    found = figures(model, processor, max(16, course.evaluated if step == total else course.evaluated // 8), copied)
    facts = {
        "step": step,
        "of": total,
        "steps": course.steps,
        "reading_steps": course.reading_steps,
        "both_steps": course.both_steps,
        "last_steps": course.last_steps,
        "text_tokens": course.text_tokens,
        "loss": None if math.isnan(progress.loss) else progress.loss,
        "seconds": progress.seconds,
        **found,
    }
    save(model, processor, out, facts)
    return replace(progress, f1=found["box_f1"])


def _average_gradients(parameters: Iterable[Any], processes: int) -> None:
    import torch
    import torch.distributed as dist

    if processes == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    parts = (flat / processes).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def _rate(step: int, course: Course) -> float:
    """Linear warm-up, then a cosine down to 2 % of the learning rate: for frames alone, for the two parts that follow, and
    for the last one."""
    for steps in (course.steps, course.reading_steps + course.both_steps, course.last_steps):
        if step < steps:
            break
        step -= steps
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return 0.02 + 0.49 * (1 + math.cos(math.pi * (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)))

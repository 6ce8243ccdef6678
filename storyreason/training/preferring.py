"""Direct preference optimization (DPO, Rafailov et al. 2023, arXiv 2305.18290), with packed rows and planned steps.

Why not TRL's trainer, whose loss and gradient this one has (a test compares them): it neither packs pairs nor takes kept
features, and its base passes over each pair in every step.

With p and q the log-probabilities of an answer by the model that learns and by the one that it started from, the reward of
an answer is beta (p - q), the margin of a pair is the reward of the right answer minus that of the wrong one, and its loss is
-log sigmoid(margin). The loss of a step is the mean over its pairs plus, with `sft_weight`, the mean cross-entropy over the
tokens of its right answers.
"""

import json
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy, logsigmoid

from storyreason import chat, runs
from storyreason.errors import TrainingError
from storyreason.training import packing, plan
from storyreason.training.config import ImproveConfig
from storyreason.training.pace import EnoughError
from storyreason.training.pairs import PairDataset
from storyreason.training.trainer import StoryTrainer


class PreferenceTrainer(StoryTrainer):
    """The same steps over pairs. `stories` and `validation` are `PairDataset`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.improve = self.job.improve or ImproveConfig(method="dpo")
        self._margins = torch.zeros(3, device=self.args.device)
        """Totals of the current step: pairs, the sum of their margins, and how many margins are positive."""

    @property
    def parts(self) -> dict[str, PairDataset]:
        return {"train": cast(PairDataset, self.stories), "validation": cast(PairDataset, self.validation)}

    def begin(self) -> int | None:
        resumed = super().begin()
        self.telemetry.writer.write("pairs", step=resumed or 0, **self.parts["train"].line())
        return resumed

    # The model that the training starts from

    def know_reference(self) -> None:
        """Compute, before the first step, what the model gives each answer where it starts, and keep it in the work folder.

        Batch by batch: an attempt that is killed is continued. Raises EnoughError when the run is asked to stop, TrainingError
        when steps were done and the file is gone.
        """
        if all(part.reference is not None for part in self.parts.values()):
            return
        known = self._kept()
        for name, pairs in self.parts.items():
            missing = [one for one in self.batches(pairs) if any((name, index) not in known for index in one)]
            if missing and self.state.global_step:
                raise TrainingError(
                    f"{self._file} lacks what the model gave the answers where it started, and the training is at step "
                    f"{self.state.global_step}: start over with training.afresh=true, or remove {self.job.work}."
                )
            for indices, found in self.over(pairs, missing, self._reference):
                if found is None:
                    raise EnoughError
                for one in self._gathered(indices, found):
                    self._keep(name, one)
                    known |= {(name, int(index)): (right, wrong) for index, right, wrong in one}
            pairs.reference = np.asarray([known[name, index] for index in range(len(pairs))], np.float64).reshape(-1, 2)
        self.telemetry.restart_clock()

    @property
    def _file(self) -> Any:
        """What was computed for these pairs with this base, one line for each batch."""
        what = {key: value for key, value in self.keeper.identity.items() if key not in ("stories_per_step", "sharded")}
        return self.job.work / f"reference-{runs.fingerprint(**what)}.jsonl"

    def _kept(self) -> dict[tuple[str, int], tuple[float, float]]:
        known = {}
        if self._file.exists():
            for line in self._file.read_text().splitlines(keepends=True):
                if line.endswith("\n"):  # the last one may have been cut off
                    one = json.loads(line)
                    known.update({(one["part"], index): (right, wrong) for index, right, wrong in one["pairs"]})
        self.accelerator.wait_for_everyone()  # all have read before one writes
        if self.is_world_process_zero() and self._file.exists() and not self._file.read_bytes().endswith(b"\n"):
            whole = self._file.read_bytes().rpartition(b"\n")
            runs.write_bytes(self._file, whole[0] + whole[1])
        return known

    def _keep(self, part: str, pairs: Sequence[Sequence[float]]) -> None:
        if self.is_world_process_zero():
            with self._file.open("a") as file:
                file.write(json.dumps({"part": part, "pairs": pairs}) + "\n")

    def _reference(self, inputs: dict[str, Any]) -> torch.Tensor:
        labels = inputs.pop("labels")
        return log_probabilities(self.model_wrapped, self.with_seen(inputs), labels).view(-1, 2)

    def _gathered(self, indices: list[int], found: torch.Tensor) -> list[list[tuple[int, float, float]]]:
        """The batches of all processes: each pair's index and its two log-probabilities."""
        mine = [(index, *values) for index, values in zip(indices, found.tolist(), strict=False)]
        if self.args.world_size == 1:
            return [mine]
        shared: list[Any] = [None] * self.args.world_size
        dist.all_gather_object(shared, mine)
        return [one for one in shared if one]

    # Steps

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        self.know_reference()
        return super().get_batch_samples(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        self.know_reference()
        return super().evaluate(*args, **kwargs)

    def divisor(self, items: Sequence[plan.Item]) -> torch.Tensor:
        """The pairs of a step, and the tokens of their right answers."""
        return torch.tensor([len(items), sum(self.parts["train"].right_tokens(index) for _, index in items)])

    def part_of_loss(self, model: Any, inputs: dict[str, Any], divisor: torch.Tensor) -> torch.Tensor:
        losses, margins, right = self._judged(model, inputs)
        self._margins += _summed(margins)
        return losses.sum() / divisor[0] - self.improve.sft_weight * right.sum() / divisor[1]

    def _judged(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The loss and the margin of each pair, and the log-probability of its right answer."""
        labels, reference = inputs.pop("labels"), inputs.pop("reference")
        found = log_probabilities(model, self.with_seen(inputs), labels).view(-1, 2)
        losses, margins = preferences(found, reference, self.improve.beta)
        return losses, margins.detach(), found[:, 0]

    def measured(self) -> dict[str, float]:
        totals = self.over_processes(self._margins.clone())
        self._margins.zero_()
        return _means(totals)

    def totals(self, inputs: dict[str, Any]) -> torch.Tensor:
        tokens = _answer_tokens(inputs, inputs["labels"]).view(-1, 2)[:, 0]
        losses, margins, right = self._judged(self.model_wrapped, inputs)
        return torch.stack([*_summed(margins), losses.sum(), -right.sum(), tokens.sum()]).double().cpu()

    def validated(self, totals: torch.Tensor) -> dict[str, float]:
        loss = float(totals[3] / totals[0] + self.improve.sft_weight * totals[4] / totals[5])
        return {"eval_loss": loss, **_means(totals)}


def log_probabilities(model: Any, inputs: dict[str, Any], labels: torch.Tensor) -> torch.Tensor:
    """The log-probability of each document's answer [documents], float64: of packed rows [1, tokens], or of padded ones.

    A margin is a small difference between sums over thousands of tokens, for which float32 is too coarse.
    """
    count, document = _documents(inputs, labels)
    found = of_tokens(model, inputs, labels)
    none = torch.zeros(count, dtype=torch.float64, device=found.device)
    return none.index_add(0, document, found.double())


def _answer_tokens(inputs: dict[str, Any], labels: torch.Tensor) -> torch.Tensor:
    """How many tokens of each document have a label [documents]."""
    count, document = _documents(inputs, labels)
    return document.bincount(minlength=count)


def _documents(inputs: dict[str, Any], labels: torch.Tensor) -> tuple[int, torch.Tensor]:
    """How many documents there are, and for each token that has a label, in the order of `of_tokens`, which it is in."""
    if "position_ids" in inputs:
        positions = inputs["position_ids"]
        text = positions[0] if positions.dim() == 3 else positions  # without M-RoPE there is only the text's row
        count, document = len(packing.lengths_of(text)), (text == 0).cumsum(dim=1) - 1
    else:
        count = len(labels)
        document = torch.arange(count, device=labels.device)[:, None].expand_as(labels)
    return count, document[:, 1:][labels[:, 1:] != chat.IGNORED]


def of_tokens(model: Any, inputs: dict[str, Any], labels: torch.Tensor) -> torch.Tensor:
    """The log-probability of each token that has a label, float32, row by row: all those of a document, then the next one's.

    `labels` [batch, tokens] are `chat.IGNORED` where nothing is to be predicted; `inputs` are the model's other inputs.
    """
    targets = labels[:, 1:]
    columns = (targets != chat.IGNORED).any(dim=0).nonzero().squeeze(1)
    logits = model(**inputs, logits_to_keep=columns, use_cache=False).logits
    wanted = targets[:, columns].flatten()
    losses = cross_entropy(logits.flatten(0, 1).float(), wanted, ignore_index=chat.IGNORED, reduction="none")
    return -losses[wanted != chat.IGNORED]


def preferences(found: torch.Tensor, reference: torch.Tensor, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss and the margin of each pair, from log-probabilities [pairs, 2] of the right and the wrong answer.

    >>> preferences(torch.tensor([[-1.0, -3.0]]), torch.tensor([[-2.0, -2.0]]), beta=0.5)[1]
    tensor([1.])
    """
    rewards = beta * (found - reference)
    margins = rewards[:, 0] - rewards[:, 1]
    return -logsigmoid(margins), margins


def _summed(margins: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.tensor(len(margins), device=margins.device), margins.sum(), (margins > 0).sum()]).float()


def _means(totals: torch.Tensor) -> dict[str, float]:
    return {"margin": float(totals[1] / totals[0]), "accuracy": float(totals[2] / totals[0])}

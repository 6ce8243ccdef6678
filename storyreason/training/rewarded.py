"""Group relative policy optimization (GRPO, Shao et al. 2024, arXiv 2402.03300), with packed rows and planned steps.

With p, o and q the log-probabilities of a token by the model that learns, by the one that answered and by the one that the
training started from, r = exp(p - o) and the answer's advantage A, the loss of a token is

    -min(r A, clip(r, 1 - clip, 1 + clip_high) A) + beta r (exp(q - p) - (q - p) - 1)

and that of a step is the mean over all tokens of its answers, as in DAPO (Yu et al. 2025, arXiv 2503.14476, sections 3.1 and
3.3): an answer counts by its length, so that a long bad one is not excused, and rows may be packed in any way. The second term
estimates the divergence from the model at the start (k3 of Schulman's "Approximating KL divergence", 2020); with r its gradient
is unbiased (DeepSeek-V3.2, arXiv 2512.02556, section 3.1).

Why not TRL's trainer, whose loss and gradient this one has (a test compares them): it neither packs answers nor takes kept
features, keeps engine and trainer in one process, and cannot resume with the answers of a round.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist

from storyreason.training import samples as answers
from storyreason.training.config import ImproveConfig
from storyreason.training.pace import EnoughError
from storyreason.training.preferring import of_tokens
from storyreason.training.samples import Sample, SampleDataset
from storyreason.training.trainer import StoryTrainer


class RewardTrainer(StoryTrainer):
    """The same steps over the answers of one round. `stories` is a `SampleDataset`.

    A round counts when it is complete: only then is there a checkpoint. So a process always begins with the weights that
    answered.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.improve = self.job.improve or ImproveConfig(method="grpo")
        self._start: list[torch.Tensor] | None = None
        """The trained weights where the training started, when it goes on from later ones; this process' part of them."""
        self._totals = torch.zeros(3, device=self.args.device)
        """The current step's tokens, the sum of their divergences, and the number of clipped ones."""
        self._divergence = torch.zeros(2, dtype=torch.float64)
        """The round's tokens and the sum of their divergences."""

    @property
    def samples(self) -> SampleDataset:
        return cast(SampleDataset, self.stories)

    # Rounds

    def read_checkpoint(self, folder: Path) -> None:
        self._start = [weight.to("cpu", copy=True) for weight in self._weights()]
        super().read_checkpoint(folder)

    def write_checkpoint(self) -> None:
        """At the end of the round. Says first what it was like, so that no checkpoint is without.

        Stopped in its first step, the process is still at the end of the round before.
        """
        if self.state.global_step == self.plan.last:
            found: list[Sample] = answers.read(answers.folder(self.job.work, self.job.round or 0) / answers.FILE)
            kl = float(self._divergence[1] / self._divergence[0])
            values = {"round": (self.job.round or 0) + 1, **answers.summary(found), "kl": kl}
            self.telemetry.writer.write("round", step=self.state.global_step, **values)
            super().write_checkpoint()

    # The models that the training starts from, and that answered

    def know(self) -> None:
        """Compute the log-probabilities of all answers' tokens by both. Raises EnoughError when the run is asked to stop."""
        known = self.samples.log_probabilities
        if known:
            return
        found = {"reference": self._computed(self._start)}
        if self.improve.steps > 1:
            found["old"] = self._computed(None) if self._start is not None else found["reference"]
        known |= found
        self.telemetry.restart_clock()

    def _computed(self, weights: Sequence[torch.Tensor] | None) -> dict[int, Any]:
        """By answer, the log-probabilities of its tokens with these weights; None: with those that are in the model."""
        found: dict[int, Any] = {}
        with self._instead(weights):
            for indices, values in self.over(self.samples, self.batches(self.samples), self._of_tokens):
                if values is None:
                    raise EnoughError
                parts = values.cpu().split([self.samples.answer_tokens(index) for index in indices]) if indices else ()
                mine = {index: part.numpy() for index, part in zip(indices, parts, strict=True)}
                shared: list[Any] = [mine]
                if self.args.world_size > 1:
                    shared = [None] * self.args.world_size
                    dist.all_gather_object(shared, mine)
                for one in shared:
                    found |= one
        return found

    def _of_tokens(self, inputs: dict[str, Any]) -> torch.Tensor:
        labels = inputs.pop("labels")
        inputs.pop("advantage")
        return of_tokens(self.model_wrapped, self.with_seen(inputs), labels)

    @contextmanager
    def _instead(self, weights: Sequence[torch.Tensor] | None) -> Iterator[None]:
        """Within the block the model has these weights."""
        if weights is None:
            yield
            return
        own = [weight.to("cpu", copy=True) for weight in self._weights()]
        self._put(weights)
        try:
            yield
        finally:
            self._put(own)

    def _weights(self) -> list[torch.Tensor]:
        """The trained weights, of sharded ones this process' part."""
        model: Any = self.model
        found = (one.detach() for one in model.parameters() if one.requires_grad)
        return [one.to_local() if hasattr(one, "to_local") else one for one in found]

    def _put(self, weights: Sequence[torch.Tensor]) -> None:
        with torch.no_grad():
            for place, weight in zip(self._weights(), weights, strict=True):
                place.copy_(weight)

    # Steps

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        self.know()
        return super().get_batch_samples(*args, **kwargs)

    def part_of_loss(self, model: Any, inputs: dict[str, Any], divisor: torch.Tensor) -> torch.Tensor:
        labels, advantage, reference = inputs.pop("labels"), inputs.pop("advantage"), inputs.pop("reference")
        old = inputs.pop("old", None)
        found = of_tokens(model, self.with_seen(inputs), labels)
        old = found.detach() if old is None else old
        losses, clipped = policy(found, old, advantage, self.improve)
        diverged = divergence(found, reference)
        with torch.no_grad():
            count = torch.tensor(len(found), device=found.device)
            self._totals += torch.stack([count, diverged.sum(), clipped.sum()])
        return (losses + self.improve.beta * torch.exp(found - old) * diverged).sum() / divisor

    def measured(self) -> dict[str, float]:
        tokens, diverged, clipped = self.over_processes(self._totals.clone()).double().tolist()
        self._totals.zero_()
        self._divergence += torch.tensor([tokens, diverged], dtype=torch.float64)
        return {"kl": diverged / tokens, "clipped": clipped / tokens}


def policy(
    found: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, config: ImproveConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of each token without the divergence, and whether it was clipped, so that it teaches nothing; all [tokens].

    >>> config = ImproveConfig(clip=0.2, clip_high=0.25)
    >>> policy(torch.log(torch.tensor([1.0, 2.0, 2.0])), torch.zeros(3), torch.tensor([1.0, 1.0, -1.0]), config)
    (tensor([-1.0000, -1.2500,  2.0000]), tensor([False,  True, False]))
    """
    ratio = torch.exp(found - old)
    free, held = ratio * advantage, ratio.clamp(1 - config.clip, 1 + config.clip_high) * advantage
    return -torch.minimum(free, held), held < free


def divergence(found: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """An estimate for each token of how far its probability is from the reference's: 0 where they are equal, else more."""
    apart = reference - found
    return torch.exp(apart) - apart - 1

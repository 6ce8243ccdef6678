"""Preferences: the loss is that of the formula, packed or not; a training that was stopped gives the same bytes."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from storyreason import chat, dataset, model, training
from storyreason.errors import TrainingError
from storyreason.training import ImproveConfig, Job, TrainingConfig, packing, preferring, process, setup
from storyreason.training.examples import Batches, StoryDataset, collate
from storyreason.training.negatives import KINDS
from storyreason.training.pairs import PairDataset, wrong_examples
from storyreason.training.prepared import Prepared
from tests.storyreason.training.whole import PACKED, Lines, MakeJob, files, losses

pytestmark = pytest.mark.server

CONFIG: dict[str, Any] = {
    "mode": "lora", "rank": 4, "dtype": "float32", "recompute": "none", "pack_tokens": 8192,
}  # fmt: skip

DPO = ImproveConfig(method="dpo")


@pytest.fixture
def pairs(tiny_base: Path, tiny_examples: list[dataset.Example]) -> PairDataset:
    encoder = chat.Encoder(model.load_processor(str(tiny_base)), images_first=False)
    config = TrainingConfig(**CONFIG)
    stories = StoryDataset(tiny_examples, range(4), encoder, config)
    wrong = Prepared.of(wrong_examples(stories, KINDS), encoder, config)
    return PairDataset(stories, wrong, KINDS)


def test_the_loss_is_that_of_the_formula_in_float64_and_packed_rows_have_its_gradient(
    pairs: PairDataset, tiny_base: Path, tmp_path: Path
) -> None:
    job = Job(base=str(tiny_base), data=tmp_path, work=tmp_path, training=TrainingConfig(**CONFIG), improve=DPO)
    net = setup.load_model(job, cuda=False).eval()
    for name, parameter in net.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    items = [(0, index) for index in range(3)]
    reference = torch.tensor([[-3000.0, -3001.0], [-2990.0, -2999.0], [-3010.0, -3000.0]])

    def direct() -> torch.Tensor:
        """Each answer by itself, token by token."""
        found = []
        for item in items:
            for one in pairs.documents(item, seen=False):
                row = collate([one], pad=0)
                labels = row.pop("labels")[0]
                logs = net(**row).logits[0].double().log_softmax(dim=1)
                found.append(sum(logs[place - 1, word] for place, word in enumerate(labels.tolist()) if word >= 0))
        got = torch.stack(found).view(-1, 2) - reference.double()
        return -torch.log(torch.sigmoid(0.001 * (got[:, 0] - got[:, 1]))).sum()

    def ours(join: Any) -> torch.Tensor:
        row = Batches(pairs, join)[(tuple(items),)]
        labels = row.pop("labels")
        return preferring.preferences(preferring.log_probabilities(net, row, labels).view(-1, 2), reference, 0.001)[
            0
        ].sum()

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        net.zero_grad()
        loss.backward()
        return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]).double()

    net.get_base_model().set_attn_implementation("sdpa")
    expected, padded = direct(), ours(partial(collate, pad=0))
    wanted, of_padded = gradient(expected), gradient(padded)
    net.get_base_model().set_attn_implementation({"text_config": packing.ATTENTION})
    packed = ours(partial(packing.join, positions=packing.positions_of(net)))
    assert float(wanted.norm()) > 0
    for loss, found in ((padded, of_padded), (packed, gradient(packed))):
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert float((found - wanted).norm() / wanted.norm()) < 1e-4


@pytest.mark.parametrize("pack_tokens", [8192, None])
def test_the_loss_of_a_validation_is_that_of_a_step_over_the_same_pairs(
    make_job: MakeJob, pack_tokens: int | None
) -> None:
    # Given a model some way from where it started
    improve = DPO.model_copy(update={"sft_weight": 0.5, "negatives": ("mixed-films",)})
    job = make_job("both", improve, **{**CONFIG, "pack_tokens": pack_tokens}, max_images=2)
    job.work.mkdir()
    encoder = chat.Encoder(model.load_processor(job.base), job.training.images_first)
    pairs, validation, schedule = process.scheduled(dataset.load(job.data, "train"), job, encoder, processes=1)
    assert isinstance(pairs, PairDataset)
    settings, net = setup.arguments(job, cuda=False), setup.load_model(job, cuda=False)
    watch: Any = SimpleNamespace(wanted=False)
    trainer = preferring.PreferenceTrainer(job, settings, net, schedule, pairs, validation, watch, encoder.processor)
    pairs.reference = np.full((len(pairs), 2), -900.0)
    items = [(0, 0), (0, 1)]
    # whose right and wrong answers are not of one length
    tokens = [pairs.passes(item) for item in items]
    assert sum(right for (_, right), _ in tokens) != sum(wrong for _, (_, wrong) in tokens)
    batches = Batches(pairs, trainer.join)
    # When they are learnt from, and when they are validated on
    with torch.no_grad():
        learnt = trainer.part_of_loss(net, batches[(tuple(items),)], trainer.divisor(items))
        found = trainer.validated(trainer.totals(batches[(tuple(items),)]))
    # Then the loss that chooses the best step is the one that is learnt from
    assert found["eval_loss"] == pytest.approx(float(learnt), rel=1e-6)


def test_it_goes_on_from_an_adapter_or_from_whole_weights(make_job: MakeJob, tmp_path: Path) -> None:
    for mode in ("lora", "full"):
        job = make_job(mode, DPO, mode=mode)
        before = setup.load_model(job, cuda=False)
        with torch.no_grad():
            for weight in (one for one in before.parameters() if one.requires_grad):
                weight += 0.5
        before.save_pretrained(tmp_path / f"{mode} result")
        again = setup.load_model(job.model_copy(update={"start": tmp_path / f"{mode} result"}), cuda=False).train()
        weights = dict(before.named_parameters())
        found = dict(again.named_parameters())
        assert {name: one.requires_grad for name, one in found.items()} == {
            name: one.requires_grad for name, one in weights.items()
        }
        assert all(bool((one == weights[name]).all()) for name, one in found.items())
        assert not any(isinstance(one, torch.nn.Dropout) and one.p for one in again.modules())
    job = make_job("other", DPO, mode="lora")
    with pytest.raises(TrainingError, match=r"holds whole weights, which training\.mode=lora does not train"):
        setup.load_model(job.model_copy(update={"start": tmp_path / "full result"}), cuda=False)


@pytest.mark.long
def test_a_training_learns_to_prefer_and_one_that_was_stopped_learns_the_same(make_job: MakeJob) -> None:
    settings = {**PACKED, **CONFIG, "max_steps": 4, "learning_rate": 3e-3, "pack_tokens": 4096}
    improve = DPO.model_copy(update={"sft_weight": 0.1})
    begun = make_job("begun", **{**settings, "max_steps": 1, "learning_rate": 3e-2})
    start = {"start": training.run(begun, Lines(), env={"OMP_NUM_THREADS": "1"})}
    calm, told = make_job("calm", improve, **settings).model_copy(update=start), Lines()
    result = training.run(calm, told, env={"OMP_NUM_THREADS": "1"})
    first, last = told.of("step")[0], told.of("step")[-1]
    assert first["margin"] == pytest.approx(0, abs=1e-3)
    assert last["margin"] > 0
    assert 0 <= last["accuracy"] <= 1
    (counted,) = told.of("pairs")
    assert counted["pairs"] == sum(counted["kinds"].values()) > told.of("start")[0]["stories"]
    stirred = make_job("stirred", improve, **settings).model_copy(update=start)
    with pytest.raises(KeyboardInterrupt):
        training.run(stirred, Lines(stop_at=("step", 2)), env={"OMP_NUM_THREADS": "1"})
    assert files(training.run(stirred, Lines(), env={"OMP_NUM_THREADS": "1"})) == files(result)
    assert losses(stirred) == losses(calm)

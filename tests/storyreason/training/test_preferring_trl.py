"""TRL's own trainer agrees: the same pairs, one by one and unpacked, have its loss and its gradient."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from storyreason import chat, dataset, model, pictures
from storyreason.training import ImproveConfig, process, setup
from storyreason.training.examples import Batches
from storyreason.training.pairs import PairDataset
from storyreason.training.preferring import PreferenceTrainer
from tests.storyreason.training.whole import MakeJob

pytestmark = [
    pytest.mark.server,
    pytest.mark.filterwarnings("ignore"),  # TRL's of a vLLM that it does not use here, and torch's deprecations
]
BETA, SFT_WEIGHT, IMAGES = 0.05, 0.25, 2
Loss = tuple[float, torch.Tensor]


def moved(net: Any, seed: int = 1) -> Any:
    """A model some steps from where it was: all trained weights differ a little."""
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in (one for one in net.parameters() if one.requires_grad):
            weight += 0.01 * torch.randn(weight.shape, generator=chance)
    return net


def differentiated(net: Any, loss: torch.Tensor) -> Loss:
    net.zero_grad()
    loss.backward()
    names = sorted(name for name, weight in net.named_parameters() if weight.grad is not None)
    assert len(names) > 20
    grads = dict(net.named_parameters())
    return loss.item(), torch.cat([grads[name].grad.flatten() for name in names])


def ours(make_job: MakeJob, items: Sequence[tuple[int, int]], **config: Any) -> tuple[Loss, PairDataset]:
    """A trainer's own way: it asks the base once, moves, and takes the step's loss."""
    improve = ImproveConfig(method="dpo", beta=BETA, sft_weight=SFT_WEIGHT)
    job = make_job(f"ours {config}", improve, max_images=IMAGES, **config)
    job.work.mkdir()
    encoder = chat.Encoder(model.load_processor(job.base), images_first=True)
    pairs, validation, schedule = process.scheduled(dataset.load(job.data, "train"), job, encoder, processes=1)
    assert isinstance(pairs, PairDataset)
    settings, net = setup.arguments(job, cuda=False), setup.load_model(job, cuda=False).double()
    watch: Any = SimpleNamespace(wanted=False)
    trainer = PreferenceTrainer(job, settings, net, schedule, pairs, validation, watch, encoder.processor)
    trainer.know_reference()
    moved(net.train())
    step = Batches(pairs, trainer.join)[(tuple(items),)]
    return differentiated(net, trainer.part_of_loss(net, step, trainer.divisor(items))), pairs


def of_trl(base: Path, pairs: PairDataset, items: Sequence[tuple[int, int]], folder: Path) -> Loss:
    from datasets import Dataset
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    processor = AutoProcessor.from_pretrained(base)
    rows = []
    for epoch, index in items:
        example = pairs.examples[pairs.story(index).place]
        turns = chat.messages(IMAGES, pairs.request(epoch, index))
        right, wrong = (
            processor.tokenizer.decode(one.input_ids[one.labels != chat.IGNORED])
            for one in pairs.documents((epoch, index), seen=False)
        )
        frames = pictures.open_frames(example.images[:IMAGES], example.story_id)
        rows.append(
            {
                "images": [
                    frame.copy() for frame in frames
                ],  # no JPEGs any more, which the data set would compress again
                "prompt": processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True),
                "chosen": right,
                "rejected": wrong,
            }
        )
    trainer: Any = DPOTrainer(
        model=moved(AutoModelForImageTextToText.from_pretrained(base).double()).train(),
        ref_model=AutoModelForImageTextToText.from_pretrained(base).double(),
        processing_class=processor,
        train_dataset=Dataset.from_list(rows),
        args=DPOConfig(
            output_dir=str(folder),
            beta=BETA,
            loss_type=["sigmoid", "sft"],
            loss_weights=[1.0, SFT_WEIGHT],
            max_length=None,
            per_device_train_batch_size=len(rows),
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
        ),
    )
    net, batch = trainer.model, trainer.data_collator([trainer.train_dataset[row] for row in range(len(rows))])
    return differentiated(net, trainer.compute_loss(net, batch))


def test_loss_and_gradient_are_those_of_trl(make_job: MakeJob, tiny_base: Path, tmp_path: Path) -> None:
    # Given four pairs of different stories and kinds, and a model that has moved from its base
    items = [(0, index) for index in (0, 3, 7, 11)]
    found, pairs = ours(make_job, items)
    packed, _ = ours(make_job, items, pack_tokens=8192)
    assert len({pairs.kinds[index] for _, index in items}) > 1
    # When TRL takes the same
    loss, gradient = of_trl(tiny_base, pairs, items, tmp_path / "trl")
    # Then all agree, packed or not
    for one, its_gradient in (found, packed):
        assert one == pytest.approx(loss, rel=1e-5)
        assert float((its_gradient - gradient).norm() / gradient.norm()) < 1e-5

"""TRL's own trainer agrees: the same answers, padded and unpacked, have its loss and its gradient."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from storyreason import chat, dataset, model
from storyreason.training import ImproveConfig, process, samples, setup
from storyreason.training.examples import Batches
from storyreason.training.rewarded import RewardTrainer
from storyreason.training.samples import Sample, SampleDataset
from tests.storyreason.training.test_preferring_trl import Loss, differentiated, moved
from tests.storyreason.training.whole import MakeJob

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("ignore")]
IMAGES, REQUEST = 2, chat.REQUESTS[1]
IMPROVE = ImproveConfig(method="grpo", beta=0.05, clip=0.1, clip_high=0.15, steps=2, answers=2)


def a_round(make_job: MakeJob, name: str, **config: Any) -> tuple[RewardTrainer, SampleDataset]:
    """A trainer with four answers to two stories, one of which was cut. It has asked the base, and the model that answered."""
    job = make_job(name, IMPROVE, max_images=IMAGES, **config)
    job = job.model_copy(update={"round": 0, "request": REQUEST})
    job.work.mkdir()
    examples = dataset.load(job.data, "train")
    encoder = chat.Encoder(model.load_processor(job.base), images_first=True)
    stories, _ = process.split(examples, job, encoder)
    found = []
    for place, words in ((0, (40, 90)), (3, (60, 25))):
        told = examples[stories.story(place).place]
        for number, count in enumerate(words):
            text = " ".join(told.chain_of_thought.split(" ")[:count])
            advantage = (0.7, -0.7)[number]
            found.append(Sample(told.story_id, text, (place, number) == (3, 1), count, 0.5, {}, advantage))
    samples.folder(job.work, 0).mkdir()
    samples.write(samples.folder(job.work, 0) / samples.FILE, found)
    answers, validation, schedule = process.scheduled(examples, job, encoder, processes=1)
    assert isinstance(answers, SampleDataset) and len(answers) == 4
    settings, net = setup.arguments(job, cuda=False), setup.load_model(job, cuda=False).double()
    watch: Any = SimpleNamespace(wanted=False)
    trainer = RewardTrainer(job, settings, net, schedule, answers, validation, watch, encoder.processor)
    trainer._start = [one.clone() for one in trainer._weights()]
    moved(net, 1)
    trainer.know()
    return trainer, answers


def ours(trainer: RewardTrainer, answers: SampleDataset, items: Sequence[tuple[int, int]]) -> Loss:
    net: Any = trainer.model
    moved(net.train(), 2)
    step = Batches(answers, trainer.join)[(tuple(items),)]
    return differentiated(net, trainer.part_of_loss(net, step, trainer.divisor(items)))


def of_trl(base: Path, answers: SampleDataset, items: Sequence[tuple[int, int]], folder: Path) -> Loss:
    from datasets import Dataset
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    def nothing(completions: list[Any], **columns: Any) -> list[float | None]:
        return [0.0 for _ in completions]

    trainer: Any = GRPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(base).double(),
        processing_class=AutoProcessor.from_pretrained(base),
        reward_funcs=nothing,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": REQUEST}]}]),
        args=GRPOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=len(items),
            num_generations=len(items),
            loss_type="dapo",
            beta=IMPROVE.beta,
            epsilon=IMPROVE.clip,
            epsilon_high=IMPROVE.clip_high,
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
        ),
    )
    inputs = _as_trl_has_them(answers, items, trainer.processing_class.tokenizer.pad_token_id)
    length = inputs["completion_ids"].size(1)
    ids, mask = (torch.cat([inputs[f"prompt_{what}"], inputs[f"completion_{what}"]], dim=1) for what in ("ids", "mask"))
    seen = {key: inputs[key] for key in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")}
    net = trainer.model.train()
    with torch.no_grad():
        reference = trainer._get_per_token_logps_and_entropies(net, ids, mask, length, **seen)[0]
        old = trainer._get_per_token_logps_and_entropies(moved(net, 1), ids, mask, length, **seen)[0]
    trainer.current_gradient_accumulation_steps = 1
    inputs |= {"ref_per_token_logps": reference, "old_per_token_logps": old}
    return differentiated(net, trainer.compute_loss(moved(net, 2), inputs))


def _as_trl_has_them(answers: SampleDataset, items: Sequence[tuple[int, int]], pad: int) -> dict[str, Any]:
    """Prompts padded on the left, answers on the right."""
    documents = [answers.documents(item, seen=False)[0] for item in items]
    starts = [int((one.labels == chat.IGNORED).sum()) for one in documents]

    def padded(parts: Sequence[torch.Tensor], value: int, side: str) -> torch.Tensor:
        return pad_sequence(list(parts), batch_first=True, padding_value=value, padding_side=side)

    prompts = [one.input_ids[:start] for one, start in zip(documents, starts, strict=True)]
    told = [one.input_ids[start:] for one, start in zip(documents, starts, strict=True)]
    kinds = padded([one.mm_token_type_ids[:start] for one, start in zip(documents, starts, strict=True)], 0, "left")
    completions = padded(told, pad, "right")
    return {
        "prompt_ids": padded(prompts, pad, "left"),
        "prompt_mask": padded([torch.ones_like(one) for one in prompts], 0, "left"),
        "completion_ids": completions,
        "completion_mask": padded([torch.ones_like(one) for one in told], 0, "right"),
        "advantages": torch.from_numpy(answers.advantages[[index for _, index in items]]),
        "num_items_in_batch": torch.tensor(sum(map(len, told))),
        "pixel_values": torch.cat([one.pixel_values for one in documents]),
        "image_grid_thw": torch.cat([one.image_grid_thw for one in documents]),
        "num_images": [len(one.image_grid_thw) for one in documents],
        "mm_token_type_ids": torch.cat([kinds, torch.zeros_like(completions)], dim=1),
    }


def test_loss_and_gradient_are_those_of_trl(make_job: MakeJob, tiny_base: Path, tmp_path: Path) -> None:
    # Given four answers of different lengths, a model that has moved since it answered, and had moved before
    items = [(0, index) for index in range(4)]
    trainer, answers = a_round(make_job, "padded")
    found, packed = ours(trainer, answers, items), ours(*a_round(make_job, "packed", pack_tokens=8192), items)
    measured = trainer.measured()
    assert measured["kl"] > 0
    assert 0 < measured["clipped"] < 1
    # When TRL takes the same
    loss, gradient = of_trl(tiny_base, answers, items, tmp_path / "trl")
    # Then all agree, packed or not
    for one, its_gradient in (found, packed):
        assert one == pytest.approx(loss, rel=1e-5)
        assert float((its_gradient - gradient).norm() / gradient.norm()) < 1e-5

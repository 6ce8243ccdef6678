"""The training process from its job to its result. Every process of a training runs this."""

import os
import sys
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Literal

import torch
import torch.distributed as dist

from storyreason import architecture, chat, dataset, model, pictures, runs
from storyreason.errors import TrainingError
from storyreason.training import checkpoints, features, pairs, plan, prepared, samples, setup, sharding
from storyreason.training.config import ImproveConfig
from storyreason.training.examples import StoryDataset, refuse_long
from storyreason.training.job import Job
from storyreason.training.pace import EnoughError, HalfStepError
from storyreason.training.preferring import PreferenceTrainer
from storyreason.training.rewarded import RewardTrainer
from storyreason.training.samples import SampleDataset
from storyreason.training.trainer import StoryTrainer
from storyreason.training.watch import Watch

TRAINERS: dict[str, type[StoryTrainer]] = {"none": StoryTrainer, "dpo": PreferenceTrainer, "grpo": RewardTrainer}
"""By `ImproveConfig.method`."""


def train(job: Job, watch: Watch) -> None:
    """Train to the end and write `result/` in the work folder, or stop with a checkpoint on request.

    Every process of the training runs this. Raises a StoryReasonError when the job cannot be trained.
    """
    rank = int(os.environ.get("RANK", "0"))
    if rank:
        _train(job, watch)
        return
    with runs.lock(job.work):
        _train(job, watch)


def _train(job: Job, watch: Watch) -> None:
    config = job.training
    cuda = torch.cuda.is_available()
    if not cuda:
        torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "0")) or _cores()))
    settings = setup.arguments(job, cuda)  # starts the process group, if there are several
    processor = model.load_processor(job.base, job.revision)
    setup.check_boxes(job, processor)
    encoder = chat.Encoder(processor, config.images_first)
    examples = dataset.load(job.data, "train")
    stories, validation, schedule = scheduled(examples, job, encoder, settings.world_size)
    first = examples[stories.story(0).place]
    encoder.check(pictures.open_frames(first.images, first.story_id), "<think>\n</think>\n")
    settings.max_steps = schedule.steps
    kind = TRAINERS[job.improve.method if job.improve else "none"]
    trainer = kind(job, settings, setup.load_model(job, cuda), schedule, stories, validation, watch, processor)
    resumed = trainer.begin()
    if config.freezes_tower() and config.feature_cache_gb:
        _keep_features(job, trainer, encoder, resumed or 0)
    if trainer.is_fsdp_enabled:
        sharding.by_layer(trainer.accelerator.state.fsdp_plugin, trainer.model)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoints.path(job.work, resumed)) if resumed else None)
    except HalfStepError:
        trainer.keeper.drop_half_step()
    except EnoughError:
        pass  # an attempt before this one was killed before its result was written
    if watch.wanted:
        trainer.telemetry.writer.write("stopped", step=trainer.state.global_step, reason=watch.reason)
        sys.stderr.write(f"Stopped at step {trainer.state.global_step} of {schedule.steps}: {watch.reason}.\n")
        sys.stderr.flush()
        os._exit(143)  # at once: an orderly end of a process group and its threads may take longer than is left
    trainer.write_result()
    watch.done.set()


def _keep_features(job: Job, trainer: StoryTrainer, encoder: chat.Encoder, step: int) -> None:
    """Cache the frozen tower's features of all pictures, as far as there is room, before the first step."""
    if not architecture.takes_features(trainer.model):
        sys.stderr.write("This model does not accept cached features: its vision tower runs in every step.\n")
        return
    holder, device = architecture.inside(trainer.model), trainer.args.device
    cache = features.FeatureCache(job.features or job.work / "features", holder, encoder, device, trainer.args.bf16)
    missing = cache.missing(trainer.stories, trainer.validation)
    # Each machine has a disk of its own, and one process may look at it when another has begun to fill it.
    (room,) = _agreed([cache.room(job.training.feature_cache_gb)], "MIN", device)
    missing = dict(zip(missing, _agreed([*missing.values()], "MAX", device), strict=True))
    share = cache.share(trainer.stories, trainer.validation, missing, room)
    trainer.telemetry.writer.write("features", step=step, **share.line())

    def report(done: int, of: int) -> None:
        trainer.telemetry.writer.write("features", step=step, **share.line(), stories=of, done=done)

    for stories, kept in ((trainer.validation, share.validation), (trainer.stories, share.stories)):
        # Each machine fills its own disk. Where they share one, some files are written twice, with the same content.
        local, count = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        cache.compute(stories, sorted(kept)[local::count], report, lambda: trainer.watch.wanted)
    trainer.accelerator.wait_for_everyone()
    if not trainer.stop_wanted():
        for stories, kept in ((trainer.validation, share.validation), (trainer.stories, share.stories)):
            stories.seen = {index: partial(cache.load, stories, index) for index in kept}
        if len(share.stories) == len(trainer.stories) and len(share.validation) == len(trainer.validation):
            trainer.leave_out_tower()
            trainer.telemetry.writer.write("features", step=step, **share.line(), tower="left out")
    trainer.telemetry.restart_clock()


def _agreed(values: list[int], by: Literal["MIN", "MAX"], device: torch.device) -> list[int]:
    """The least or the greatest of each value over all processes."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    shared = torch.tensor(values, device=device)
    dist.all_reduce(shared, op=getattr(dist.ReduceOp, by))
    return [int(one) for one in shared.tolist()]


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def scheduled(
    examples: Sequence[dataset.Example], job: Job, encoder: chat.Encoder, processes: int
) -> tuple[StoryDataset, StoryDataset, plan.Plan]:
    """Stories to train on, stories to validate on, and the plan of the steps. Raises a StoryReasonError."""
    config = job.training
    stories, validation = split(examples, job, encoder)
    if job.improve and job.improve.method == "grpo":
        return _of_round(job, job.improve, stories, validation, processes)
    if job.improve:
        stories, validation = pairs.made(job, job.improve, stories, validation)
    if config.early_stopping and not len(validation):
        raise TrainingError(
            "training.early_stopping needs stories of a second film to validate on: leave it empty, or add data."
        )
    return stories, validation, plan.make(
        stories.lengths,
        epochs=config.epochs,
        max_steps=config.max_steps,
        batch_size=config.batch_size,
        accumulation=config.accumulation,
        processes=processes,
        seed=config.seed,
        pack_tokens=config.pack_tokens,
    )  # fmt: skip


def _of_round(
    job: Job, improve: ImproveConfig, stories: StoryDataset, validation: StoryDataset, processes: int
) -> tuple[StoryDataset, StoryDataset, plan.Plan]:
    """The answers of a round, no stories to validate on, and the plan of the round's steps."""
    assert job.round is not None and job.request is not None
    config = job.training
    found = samples.read(samples.folder(job.work, job.round) / samples.FILE)
    answers = SampleDataset(stories, found, job.request)
    if (least := improve.steps * processes) > len(answers):
        raise TrainingError(
            f"{len(answers)} answers of round {job.round + 1} teach something, and its steps need {least} (improve.steps x "
            "processes): raise improve.stories or improve.answers."
        )
    return answers, StoryDataset(stories.examples, [], stories.encoder, config, stories.prepared), plan.of_round(
        answers.lengths,
        number=job.round,
        rounds=improve.rounds,
        steps=improve.steps,
        stories=len(stories),
        asked=improve.stories,
        answers=improve.answers,
        batch_size=config.batch_size,
        processes=processes,
        seed=config.seed,
        pack_tokens=config.pack_tokens,
    )  # fmt: skip


def split(
    examples: Sequence[dataset.Example], job: Job, encoder: chat.Encoder | None = None
) -> tuple[StoryDataset, StoryDataset]:
    """Training and validation stories: 5 % of the films are for validation. Bad examples are left out and logged."""
    encoder = encoder or chat.Encoder(model.load_processor(job.base, job.revision), job.training.images_first)
    ready = prepared.prepare(
        job.prepared or job.work / "prepared",
        islice(examples, job.stories),
        encoder,
        job.training,
        data=job.data_version(),
        stories=job.stories,
    )
    dataset.refuse_many(job.data, ready.bad, len(ready) + len(ready.bad))
    for one in ready.bad:
        sys.stderr.write(f"Left out: {one}\n")
    held_out = dataset.validation_ids(ready.ids)
    train = [row for row, story_id in enumerate(ready.ids) if story_id not in held_out]
    kept = [row for row, story_id in enumerate(ready.ids) if story_id in held_out]
    stories = StoryDataset(examples, train, encoder, job.training, ready, job.training.shuffled_pictures)
    validation = StoryDataset(examples, kept, encoder, job.training, ready)
    refuse_long((stories, validation), job.training.max_tokens)
    if not len(stories):
        raise TrainingError(f"{job.data} has no stories to train on.")
    return stories, validation

"""Rounds: the model is asked with the weights that it has then; a round that was killed is repeated, to the same bytes."""

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from storyreason import chat, dataset, model, training
from storyreason.errors import TrainingError
from storyreason.format import answer
from storyreason.generation import Completion, GenerationConfig
from storyreason.scoring import Reward
from storyreason.scoring.config import RewardConfig
from storyreason.training import ImproveConfig, Job, launch, process, progress, rewarded, rounds, samples, setup
from storyreason.training.rounds import Asking
from tests.storyreason.training.whole import PACKED, Lines, MakeJob, files

pytestmark = pytest.mark.server

GRPO = ImproveConfig(method="grpo", rounds=2, stories=4, answers=3, steps=2, beta=0.02)
SETTINGS: dict[str, Any] = {**PACKED, "mode": "lora", "rank": 4, "learning_rate": 3e-2}


@dataclass
class Teller:
    """An engine by script: to one story it writes nothing readable; to the others the data's answer, half of it, or a row less,
    by the seed."""

    data: Path
    asked: list[tuple[str, str, int]] = field(default_factory=list)
    """The weights, the story and the seed of each request."""
    weights: str = ""

    def __post_init__(self) -> None:
        self._told = {one.images[0]: one for one in dataset.load(self.data, "train")}

    @contextmanager
    def opened(self, folder: Path) -> Iterator[rounds.Engines]:
        weights = sorted(folder.glob("*.safetensors"))
        self.weights = sha256(b"".join(one.read_bytes() for one in weights)).hexdigest()[:8]
        yield [self], "teller"

    def session(self, images: Sequence[bytes], config: GenerationConfig) -> Any:
        one = self._told[images[0]]
        self.asked.append((self.weights, one.story_id, config.seed))
        text = answer.join(one.chain_of_thought, one.story)
        rows = [place for place, line in enumerate(text.splitlines()) if line.startswith("| char")]
        lines = text.splitlines(keepends=True)
        kind = sha256(f"{one.story_id} {config.seed}".encode()).digest()[0] % 3
        if one.story_id == min(told.story_id for told in self._told.values()):
            text = "Once upon a time"
        elif kind == 1:
            text = text[: len(text) // 2]
        elif kind == 2 and rows:
            text = "".join(lines[: rows[0]] + lines[rows[0] + 1 :])
        told = Completion(text, kind == 1, 10, len(text.split()))
        return SimpleNamespace(tell=lambda **_: told)

    def count(self, text: str) -> int:
        return len(text.split())


def here(job: Job, on_progress: launch.OnProgress, after_step: int) -> Path:
    """As `launch.run`, without another process."""
    watch: Any = SimpleNamespace(wanted=False, done=SimpleNamespace(set=lambda: None))
    process.train(job, watch)
    for line in progress.read(job.work):
        on_progress(line)
    return job.work / "result"


def asking(teller: Teller) -> Asking:
    return Asking(teller.opened, GenerationConfig(), RewardConfig())


@pytest.mark.long
def test_a_round_that_was_killed_is_repeated_and_gives_the_same(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    start = here_alone(make_job)
    calm, stirred = (
        make_job(name, GRPO, **SETTINGS).model_copy(update={"start": start}) for name in ("calm", "stirred")
    )
    # Given two rounds without a break
    first, told = Teller(calm.data), Lines()
    result = rounds.run(calm, asking(first), told, here)
    assert told.steps() == [1, 2, 3, 4]
    assert [(line["round"], line["step"], line["asked"]) for line in told.of("round")] == [(1, 2, 4), (2, 4, 4)]
    assert all(line["kl"] >= 0 and 0 < line["reward"] < 1 for line in told.of("round"))
    assert told.of("step")[0]["kl"] == pytest.approx(0, abs=1e-6) and told.of("step")[3]["kl"] > 0
    # Then each round asked other weights, for as many answers, and no seed came twice
    assert len(first.asked) == len(set(first.asked)) == 2 * 4 * 3
    assert len({weights for weights, *_ in first.asked}) == 2
    # When another training is killed in the second round
    second = Teller(stirred.data)

    def killed(job: Job, on_progress: launch.OnProgress, after_step: int) -> Path:
        run: Callable[..., Path] = here if job.round == 0 else launch.run
        if job.round == 1:
            on_progress = Lines(stop_at=("step", 3))
        return run(job, on_progress, after_step=after_step)

    with pytest.raises(KeyboardInterrupt):
        rounds.run(stirred, asking(second), Lines(), killed)
    assert not (stirred.work / "checkpoint-3").exists()
    # Then what is complete is not asked again, and the result is the same
    again = rounds.run(
        stirred, asking(second), Lines(), lambda job, lines, after: launch.run(job, lines, after_step=after)
    )
    assert second.asked == first.asked
    assert files(again) == files(result)
    assert [line["step"] for line in progress.read(stirred.work) if line["event"] == "round"] == [2, 4]


def answered(make_job: MakeJob, name: str) -> Job:
    """A training of two rounds of one step each, whose answers are there."""
    settings = {**SETTINGS, "pack_tokens": None, "batch_size": 1, "max_images": 1}
    improve = GRPO.model_copy(update={"stories": 1, "answers": 2, "steps": 1})
    job = make_job(name, improve, **settings)
    setup.load_model(job, cuda=False).save_pretrained(job.work / "start")
    job = job.model_copy(update={"start": job.work / "start", "request": ""})
    for number in range(2):
        (story,) = rounds.asked(job, number)
        worth = [Reward(one, {"readable": one}) for one in (0.25, 0.75)]
        found = samples.compared(story.story_id, [("Once upon", False, 2), ("a time", False, 2)], worth)
        samples.folder(job.work, number).mkdir()
        samples.write(samples.folder(job.work, number) / samples.FILE, found)
    return job


def test_a_round_whose_checkpoint_is_lost_is_learnt_again_from_the_same_answers(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    job = answered(make_job, "lost")
    nobody = asking(Teller(job.data))
    calm = files(rounds.run(job, nobody, Lines(), here))
    # Given a second round that was killed, and then the checkpoint of the first was lost
    (samples.folder(job.work, 1) / "manifest.json").unlink()
    for step in (1, 2):
        shutil.rmtree(job.work / f"checkpoint-{step}")
    # When it is run again
    again = files(rounds.run(job, nobody, Lines(), here))
    # Then both rounds are learnt from again
    assert again == calm
    assert (job.work / "checkpoint-2").exists()


def test_a_training_that_is_stopped_in_the_first_step_of_a_round_reports_no_other(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    job = answered(make_job, "stopped")
    # Given a round that is complete
    here(job.model_copy(update={"round": 0}), Lines(), 0)
    # When the next one is stopped between the two answers of its step
    watch: Any = SimpleNamespace(wanted=False, reason="SIGTERM")
    learn = rewarded.RewardTrainer.part_of_loss

    def stopping(*args: Any) -> Any:
        watch.wanted = True
        return learn(*args)

    monkeypatch.setattr(rewarded.RewardTrainer, "part_of_loss", stopping)
    monkeypatch.setattr("os._exit", sys.exit)
    with pytest.raises(SystemExit):
        process.train(job.model_copy(update={"round": 1}), watch)
    # Then it reports the first round once, and of its own nothing
    lines = progress.read(job.work)
    assert [(line["round"], line["step"]) for line in lines if line["event"] == "round"] == [(1, 1)]
    assert lines[-1]["event"] == "stopped" and lines[-1]["step"] == 1
    assert "NaN" not in (job.work / progress.FILE).read_text()


def here_alone(make_job: MakeJob) -> Path:
    """The result of a short training."""
    begun = make_job("begun", **{**SETTINGS, "max_steps": 1, "warmup_ratio": 0})
    begun.work.mkdir()
    return here(begun, Lines(), 0)


def test_a_round_whose_answers_are_all_alike_says_what_to_do(make_job: MakeJob) -> None:
    job = make_job("alike", GRPO, **SETTINGS).model_copy(update={"round": 0, "request": ""})
    encoder = chat.Encoder(model.load_processor(job.base), job.training.images_first)
    asked = rounds.asked(job, 0)
    assert len({one.story_id for one in asked}) == GRPO.stories
    assert not {one.story_id for one in asked} & {one.story_id for one in rounds.asked(job, 1)}
    found = [
        one
        for story in asked
        for one in samples.compared(story.story_id, [("Once", False, 1)] * 3, [Reward(0.0, {"readable": 0.0})] * 3)
    ]
    folder = samples.folder(job.work, 0)
    folder.mkdir(parents=True)
    samples.write(folder / samples.FILE, found)
    with pytest.raises(TrainingError, match=r"4 stories.*to 4 none was readable.*improve\.temperature"):
        process.scheduled(dataset.load(job.data, "train"), job, encoder, processes=1)
    many = job.model_copy(update={"improve": GRPO.model_copy(update={"stories": 10_000})})
    with pytest.raises(TrainingError, match=r"improve\.stories=10000 stories, and there are \d+"):
        rounds.asked(many, 0)


def test_an_answer_that_is_too_long_to_learn_from_whole_is_learnt_from_without_its_end(make_job: MakeJob) -> None:
    job = make_job("long", GRPO, **SETTINGS).model_copy(update={"round": 0, "request": ""})
    encoder = chat.Encoder(model.load_processor(job.base), job.training.images_first)
    (story, *_) = rounds.asked(job, 0)
    # Given a short answer, and one that rambles on beyond training.max_tokens
    texts = "Once upon a time", "la " * job.training.max_tokens
    worth = [Reward(one, {"readable": one}) for one in (0.75, 0.25)]
    found = samples.compared(story.story_id, [(text, False, len(text)) for text in texts], worth)
    samples.folder(job.work, 0).mkdir(parents=True)
    samples.write(samples.folder(job.work, 0) / samples.FILE, found)

    stories, _, _ = process.scheduled(dataset.load(job.data, "train"), job, encoder, processes=1)

    assert isinstance(stories, samples.SampleDataset)
    short, long = (encoder.answer(text) for text in texts)
    assert stories.answers[0].tolist() == short
    assert stories.answers[1].tolist() == long[: len(stories.answers[1])]
    assert len(stories.documents((0, 1), seen=False)[0].input_ids) == stories.lengths[1] == job.training.max_tokens
    assert long[-1] == short[-1] not in stories.answers[1]
    assert stories.advantages[1] < 0


def test_an_improvement_in_more_steps_than_answers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"improve\.steps=3 is more than improve\.answers=2"):
        training.ImproveConfig(steps=3, answers=2)

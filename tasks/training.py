"""Fine-tuning as a step: start the training process, follow its progress, and report it to MLflow and Prefect."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.logging.loggers import flow_run_logger
from prefect.runtime import flow_run

from storyreason import dataset, model, runs, training
from storyreason.config import RunConfig
from storyreason.scoring.config import RewardConfig
from storyreason.training import machine, progress
from storyreason.training.job import MACHINE, deciding, improving
from tasks import accelerator, rounds, tracking, views
from tasks.data import Base
from tasks.evaluation import CHANGING_ANSWERS
from tasks.progress import Progress
from tasks.results import TRAINING, Pulled, Trained, from_manifest
from tasks.steps import Work, step

VERSION = 1
IMPROVE_VERSION = 1
ANSWERS_VERSION = 4  # of answers and rewards: raise it when the same weights answer, are rewarded or learn otherwise
OWNER = "prefect_run"
"""The file in a work folder that names the run of Prefect which has trained there last."""
NOT_NAMED = {f"training.{key}" for key in MACHINE - {"batch_size", "accumulation", "processes", "accelerate"}}
"""Configuration keys of training that cannot change the weights."""
DESCRIBED = {
    "stories", "validation_stories", "dropped", "bad", "trainable", "frozen", "distributed_type", "processes", "device",
}  # fmt: skip
"""What the training process reports about itself when it starts; becomes tags of the run."""
REWARDED = RewardConfig.model_fields.keys() - {"length_band"}
"""The parts of a reward."""
CURVES = {
    "step": {
        "epoch", "loss", "learning_rate", "grad_norm", "tokens_per_s", "answer_tokens_per_s", "mfu", "peak_memory",
        "data_wait", *progress.IMPROVING,
    },
    "validation": {"loss", "margin", "accuracy"},
    "round": {"reward", *REWARDED, "kl", "tokens", "cut", "dropped", "failed"},
}  # fmt: skip
"""The values of each event that become curves of the run: `train/loss`, `validation/loss`, `round/reward`, …"""
PREFIX = {"step": "train", "validation": "validation", "round": "round"}


def fingerprint(config: RunConfig, data_md5: str, base: str) -> str:
    """What determines the weights: data, base model, and the training part of the configuration."""
    return runs.fingerprint(
        step="train",
        version=VERSION,
        data=data_md5,
        stories=config.data.train_stories,
        base=base,
        training=deciding(config.training) | machine.step_settings(config.training),
    )


def _named_by(config: RunConfig, data: Pulled, base: Base) -> str:
    return fingerprint(config, data.md5, base.identity)


def _beside_the_process(work: Work, *_: Any) -> AbstractContextManager[None]:
    """The training process locks the folder itself."""
    return runs.lock(work.folder / "flow")


@step(_named_by, lock=_beside_the_process)
def train(work: Work, config: RunConfig, data: Pulled, base: Base) -> Trained:
    """Fine-tune the base model. A killed training resumes from its last checkpoint, in the same MLflow run."""
    return _fit(config, data, _job(work, config, data, base), work, views.parameters(config, "improve"), role="tuned")


def improved_fingerprint(config: RunConfig, train: str) -> str:
    """What determines the weights of an improved model: the training that it goes on from, and how it learns then."""
    chosen = config.improve.of(config.training)
    asked: dict[str, Any] = {}
    if config.improve.method == "grpo":
        asked = {
            "reward": config.reward.model_dump(),
            "generation": config.generation.model_dump(include={"request", "max_tokens"}),
            "answers": ANSWERS_VERSION,
            **_of_engine(config),
        }
    return runs.fingerprint(
        step="improve",
        version=IMPROVE_VERSION,
        train=train,
        training=deciding(chosen) | machine.step_settings(chosen),
        improve=improving(config.improve),
        **asked,
    )


def _of_engine(config: RunConfig) -> dict[str, Any]:
    """What of the engine's settings may change its answers."""
    changing = CHANGING_ANSWERS if config.improve.engine == "vllm" else {"max_model_len"}
    return runs.deciding(
        config.serving, always={"max_model_len"}, never=set(type(config.serving).model_fields) - changing
    )


def _improved_by(config: RunConfig, data: Pulled, base: Base, trained: Trained) -> str:
    return improved_fingerprint(config, trained.fingerprint)


@step(_improved_by, lock=_beside_the_process)
def improve(work: Work, config: RunConfig, data: Pulled, base: Base, trained: Trained) -> Trained:
    """Let a trained model learn preferences, or from rewards, in an MLflow run of its own. A killed one resumes as a training
    does, with rewards at its last round."""
    more = {"training": config.improve.of(config.training), "improve": config.improve, "start": trained.result}
    job = _job(work, config, data, base).model_copy(update=more)
    came = {"trained_from": trained.run_id, "role": "improved"}
    in_rounds = base if config.improve.method == "grpo" else None
    return _fit(config, data, job, work, views.parameters(config), in_rounds, **came)


def _job(work: Work, config: RunConfig, data: Pulled, base: Base) -> training.Job:
    return training.Job(
        base=_where(work, base),
        revision=config.base.revision,
        data=data.folder,
        stories=config.data.train_stories,
        work=work.folder,
        features=runs.root() / "features",
        prepared=runs.root() / "prepared",
        data_md5=data.md5,
        training=config.training,
    )


def _where(work: Work, base: Base) -> str:
    """The base's folder; the one that an unfinished training began with, if it holds the same: checkpoints name it."""
    try:
        before = str(json.loads((work.folder / "job.json").read_text())["base"])
    except (FileNotFoundError, ValueError, KeyError):
        return base.folder
    there = before != base.folder and (Path(before) / "config.json").is_file()
    return before if there and model.load_identity(before) == base.identity else base.folder


def _fit(
    config: RunConfig,
    data: Pulled,
    job: training.Job,
    work: Work,
    parameters: dict[str, str],
    in_rounds: Base | None = None,
    **tags: str,
) -> Trained:
    """Run a job, follow it, and log it in the MLflow run of its step. `in_rounds`: the base of a model that is asked."""
    run_id = tracking.open_run(
        work.step,
        work.fingerprint,
        name=run_name(config, work.fingerprint, improved=job.improve is not None),
        parameters=parameters,
        tags=tracking.lineage(data_md5=data.md5, base=config.base.name, preset=config.name, **tags),
    )
    tracking.log_config(run_id, config)
    runs.write_text(work.folder / OWNER, str(flow_run.get_id() or ""))
    tracking.log_data(run_id, config.data.target, data, "train")
    with tracking.closing(run_id):
        result = _run(config, job, work, _follower(run_id), in_rounds)
    runs.write_text(work.folder / "training_stories.json", json.dumps(_story_ids(job)))
    return Trained(
        files=("result", "training_stories.json"),
        fingerprint=work.fingerprint,
        result=result,
        run_id=run_id,
        data_md5=data.md5,
    )


def say_what_is_kept(flow: Any, flow_run: Any, state: Any) -> None:
    """Flow hook: log what a cancelled run has kept and where it goes on, because Prefect only says that it was cancelled."""
    flow_run_logger(flow_run, flow).warning("This run was cancelled. %s", kept(str(flow_run.id)))


def kept(prefect_run: str) -> str:
    """What a run of Prefect has kept of its training, and where it goes on when it is started again."""
    from storyreason.training import checkpoints

    again = "Start it again: complete steps are not repeated"
    for note in (one for name in TRAINING for one in runs.root().glob(f"{name}/*/{OWNER}")):
        if note.read_text() == prefect_run and not runs.read_manifest(note.parent):
            at = checkpoints.newest(note.parent)
            last = max((int(line["step"]) for line in progress.read(note.parent)), default=0)
            lost = f" (steps {(at or 0) + 1} to {last} were not in a checkpoint)" if last > (at or 0) else ""
            if at is None:
                return f"Its training had no checkpoint yet{lost}. {again}; training begins at step 1."
            return f"Kept: checkpoint {at} of its training{lost}. {again}; training resumes at step {at + 1}."
    return f"{again}."


def _run(
    config: RunConfig, job: training.Job, work: Work, follow: Callable[[dict[str, Any]], None], in_rounds: Base | None
) -> Path:
    """Train, and give the folder of the result. A complete training whose MLflow run is lost is only reported again."""
    if complete := runs.read_manifest(work.folder):
        for line in progress.read(work.folder):
            follow(line)
        return from_manifest(Trained, complete, str(work.folder)).result
    who = f"training {run_name(config, work.fingerprint, improved=job.improve is not None)}"
    if in_rounds is not None:
        with accelerator.taken(rounds.devices(config)):
            return rounds.run(config, in_rounds, job, work, follow, who)
    with accelerator.taken(config.training.devices), accelerator.room(config, who):
        return training.run(job, on_progress=follow)


def _story_ids(job: training.Job) -> list[str]:
    return dataset.load(job.data, "train").story_ids()[: job.stories]


def run_name(config: RunConfig, fingerprint: str, improved: bool = False) -> str:
    """The preset, and the differences from it that change the weights: `sample learning_rate=0.0005 epochs=3 1f0c2a`."""
    deciding = ("training.", "data.train", "data.target", "data.rev", "base.", *(("improve.",) if improved else ()))
    differing = [
        f"{key.removeprefix('training.')}={value}"
        for key, value in config.changes().items()
        if key.startswith(deciding) and key not in NOT_NAMED
    ]
    return " ".join([config.name, *differing, fingerprint[:6]])[:250]


def _follower(run_id: str) -> Callable[[dict[str, Any]], None]:
    """A function that reports each line of progress.jsonl; a resumed run continues after the last step in MLflow."""
    from mlflow.entities import Metric

    mlflow = tracking.client()
    shown = Progress("training", "fine-tuning")
    seen = {
        event: max((metric.step for metric in mlflow.get_metric_history(run_id, f"{prefix}/{name}")), default=0)
        for (event, prefix), name in zip(PREFIX.items(), ("loss", "loss", "reward"), strict=True)
    }
    warned: set[str] = set()

    def follow(line: dict[str, Any]) -> None:
        step = int(line["step"])
        if line["event"] == "start":
            for key in DESCRIBED & line.keys():
                mlflow.set_tag(run_id, tracking.TAG + key, str(line[key]))
            if (left_out := _left_out(line)) and left_out not in warned:  # once, not for each attempt
                warned.add(left_out)
                get_run_logger().warning("%s", left_out)
        elif line["event"] in CURVES and step > seen[line["event"]]:
            at, prefix = int(line["time"] * 1000), PREFIX[line["event"]]
            names = CURVES[line["event"]] & line.keys()
            mlflow.log_batch(run_id, [Metric(f"{prefix}/{name}", float(line[name]), at, step) for name in names])
        if line["event"] == "step":
            shown.report(step, line["steps"], _sentence(line))
        elif line["event"] == "features":
            shown.report(line.get("done", 0), line.get("stories", 1), _features_sentence(line))

    return follow


def _sentence(line: dict[str, Any]) -> str:
    return (
        f"step {line['step']}/{line['steps']}  loss {line['loss']:.3f}  {_preferred(line)}lr {line['learning_rate']:.2g}  "
        f"{line['tokens_per_s']:,.0f} tokens/s ({line['answer_tokens_per_s']:,.0f} of answers)  MFU {line['mfu']:.1%}  "
        f"peak {line['peak_memory'] / 1e9:.1f} GB  data wait {line['data_wait']:.0%}  "
        f"{line['seconds_left'] / 60:.1f} min left"
    )


def _preferred(line: dict[str, Any]) -> str:
    """How far the right answers are ahead, or the model from its start, when it is improved."""
    if "kl" in line:
        return f"KL {line['kl']:.4f}, clipped {line['clipped']:.0%}  "
    return f"margin {line['margin']:.2f}, right {line['accuracy']:.0%}  " if "margin" in line else ""


def _features_sentence(line: dict[str, Any]) -> str:
    said = f"vision features of {line['pictures']:,} pictures, {line['bytes'] / 1e9:.2f} GB"
    if line["wanted_bytes"] > line["bytes"]:
        said += f" (of {line['wanted_bytes'] / 1e9:.2f} GB: more would exceed training.feature_cache_gb or the disk)"
    if "done" in line:
        said += f": story {line['done']} of {line['stories']}"
    return said + (": all are cached, so training does not load the vision tower" if "tower" in line else "")


def _left_out(line: dict[str, Any]) -> str:
    """A sentence on the stories that are left out, or nothing."""
    dropped, bad = line["dropped"], line["bad"]
    what = [f"{dropped} longer than training.max_tokens"] if dropped else []
    what += [f"{bad} that cannot be used (log.txt names them)"] if bad else []
    of = line["stories"] + line["validation_stories"] + dropped + bad
    return f"left out of {of} stories: {', '.join(what)}" if what else ""

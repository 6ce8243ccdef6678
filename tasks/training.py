"""Fine-tuning as a step: starts the training process, follows it, and feeds MLflow and Prefect."""

from pathlib import Path
from typing import Any

from prefect import task

from storyreason import runs, training
from storyreason.config import RunConfig
from tasks import registry
from tasks.progress import Progress

VERSION = 1


def fingerprint(config: RunConfig, data_md5: str, base: str) -> str:
    """What decides the weights: data, base model, and the training part of the configuration."""
    return runs.fingerprint(
        step="train",
        version=VERSION,
        data=data_md5,
        stories=config.data.train_stories,
        base=base,
        training=config.training.model_dump(mode="json"),
    )


@task(name="train")
def train(config: RunConfig, data: dict[str, Any], base: str, print_: str) -> dict[str, Any]:
    """Fine-tune the base model; a killed run goes on from its last checkpoint, in the same MLflow run."""
    folder = runs.work_folder("train", print_)
    if manifest := runs.read_manifest(folder):
        return manifest
    run_id = registry.open_run(
        "train",
        print_,
        name=_name(config, print_),
        parameters=config.flat(),
        tags=registry.lineage(data_md5=data["md5"], base=config.base.name, preset=config.name, role="tuned"),
    )
    job = training.Job(
        base=base,
        revision=config.base.revision,
        data=Path(data["files"][0]),
        stories=config.data.train_stories,
        folder=folder,
        config=config.training,
    )
    status = "FAILED"
    try:
        result = training.run(job, on_progress=_follower(run_id))
        status = "FINISHED"
    except BaseException as error:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        raise
    finally:
        registry.close_run(run_id, status)
    return runs.write_manifest(
        folder,
        files=("result",),
        fingerprint=print_,
        result=str(result),
        run_id=run_id,
        data_md5=data["md5"],
    )


def _name(config: RunConfig, print_: str) -> str:
    chosen = config.training
    return f"{config.name} {chosen.mode} lr{chosen.learning_rate:g} {print_[:6]}"


def _follower(run_id: str) -> Any:
    """A callable that takes each line of progress.jsonl once and passes it on; a resumed run goes on where MLflow is."""
    from mlflow.entities import Metric

    mlflow = registry.client()
    progress = Progress("training", "fine-tuning")
    seen = max((m.step for m in mlflow.get_metric_history(run_id, "train/loss")), default=0)

    def follow(line: dict[str, Any]) -> None:
        step = int(line.get("step", 0))
        names = {key: value for key, value in line.items() if isinstance(value, (int, float)) and key not in _NOT_METRICS}
        if "event" in line and "validation_loss" not in line:
            return
        if step <= seen and "validation_loss" not in line:
            return
        at = int(float(line["time"]) * 1000)
        mlflow.log_batch(run_id, metrics=[Metric(f"train/{key}", float(value), at, step) for key, value in names.items()])
        if "loss" in line:
            progress.tell(step, int(line["steps"]), _sentence(line))

    return follow


_NOT_METRICS = {"step", "steps", "time"}


def _sentence(line: dict[str, Any]) -> str:
    left = float(line.get("seconds_left", 0))
    return (
        f"step {line['step']}/{line['steps']}  loss {line['loss']:.3f}  lr {line['learning_rate']:.2g}  "
        f"{line.get('tokens_per_s', 0):,.0f} tokens/s  {left / 60:.1f} min left"
    )

"""One training job: everything that the training process needs to know."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from storyreason import dataset, runs
from storyreason.errors import ConfigError
from storyreason.training.config import ImproveConfig, TrainingConfig

MACHINE = {
    "processes", "batch_size", "accumulation", "accelerate", "save_every", "pack_tokens", "feature_cache_gb", "devices",
    "free_memory_gb", "afresh", "keep_checkpoints",
}  # fmt: skip
"""Settings that say how a machine does the work. A training may resume with other values of these, as long as a step takes
the same number of stories."""

FINGERPRINTED = {
    "mode", "rank", "learning_rate", "epochs", "max_steps", "max_tokens", "warmup_ratio", "weight_decay", "max_grad_norm",
    "scheduler", "dtype", "recompute", "liger", "loss", "images_first", "max_images", "drop_unmentioned_characters",
    "drop_unmentioned_objects", "drop_unmentioned_backgrounds", "early_stopping", "seed",
}  # fmt: skip
"""Keys that are in every fingerprint and checkpoint made so far. A new key does not belong here: see `runs.deciding`."""

IMPROVED = {"method", "negatives", "beta", "sft_weight"}
"""Keys of `ImproveConfig` that are in every fingerprint of an improvement. The others are in its `TrainingConfig`."""


def deciding(training: TrainingConfig) -> dict[str, Any]:
    """The settings of a training that decide its weights."""
    return runs.deciding(training, always=FINGERPRINTED, never=MACHINE)


def improving(improve: ImproveConfig) -> dict[str, Any]:
    """The settings of an improvement that decide its weights, besides those of how it is trained (`ImproveConfig.of`)."""
    return runs.deciding(improve, always=IMPROVED, never={"learning_rate", "epochs", "max_steps"})


class Job(BaseModel):
    """What `python -m storyreason.training job.json` reads. Paths are absolute, so it runs from any directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str = Field(description="The base model: a folder, or a name on the Hub.")
    revision: str | None = Field(None, description="The base's Hub revision; empty for a folder.")
    data: Path = Field(description="The folder of parquet shards, in the published layout.")
    stories: int | None = Field(None, ge=1, description="Train on the first N stories only; empty: all.")
    work: Path = Field(description="The work folder: checkpoints, progress.jsonl, log.txt and result/ go there.")
    features: Path | None = Field(None, description="Where features are cached; empty: in the work folder.")
    prepared: Path | None = Field(None, description="Where prepared stories are kept; empty: in the work folder.")
    data_md5: str | None = Field(
        None, description="The data's version; empty: derived from its files' names, sizes and times."
    )
    training: TrainingConfig = Field(description="How to train.")
    start: Path | None = Field(
        None, description="The result of an earlier training of this base in this mode, to go on from; empty: the base."
    )
    improve: ImproveConfig | None = Field(
        None, description="Learn from preferences or rewards; empty: to write the data's answers."
    )
    round: int | None = Field(None, ge=0, description="With rewards: the round whose answers are learnt from, from 0.")
    request: str | None = Field(None, description="With rewards: the user's request that was answered.")

    def data_version(self) -> str:
        """A name for the content of the data folder. Raises DataError when it has no shards to train on."""
        if self.data_md5 is not None:
            return self.data_md5
        stats = [(file.name, file.stat()) for file in dataset.shards(self.data, "train")]
        return runs.fingerprint(
            data=str(self.data.absolute()), files=[(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
        )

    def identity(self) -> dict[str, Any]:
        """What a checkpoint belongs to: one with another identity is refused, never resumed.

        `checkpoints.identity` adds the steps, the stories and the initial weights, which tell one `start` from another.
        """
        more = {} if self.improve is None else {"improve": improving(self.improve)}
        return {
            "base": f"{self.base}@{self.revision}" if self.revision else self.base,
            "data": self.data_md5 or str(self.data),
            "stories": self.stories,
            **deciding(self.training),
            **more,
        }


def write(job: Job) -> Path:
    """Write `job.json` into the job's work folder and return its path."""
    path = job.work / "job.json"
    runs.write_text(path, json.dumps(job.model_dump(mode="json"), indent=2) + "\n")
    return path


def read(path: Path) -> Job:
    """The job in a file. Raises ConfigError when the file is missing or holds something else."""
    try:
        return Job.model_validate_json(path.read_text())
    except OSError as error:
        raise ConfigError(f"The job file {path} cannot be read: {error.strerror}.") from None
    except ValidationError as error:
        fault = error.errors()[0]
        raise ConfigError(f"{path}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}.") from None

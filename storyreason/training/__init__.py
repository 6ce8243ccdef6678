"""Fine-tune a base model in a separate process.

from storyreason import training

job = training.Job(base="tiny-base", data=Path("data"), work=Path("runs/train/abc"), training=config)
result = training.run(job, on_progress=print)
"""

from storyreason.training.config import ImproveConfig, TrainingConfig
from storyreason.training.job import Job
from storyreason.training.launch import run

__all__ = ["ImproveConfig", "Job", "TrainingConfig", "run"]

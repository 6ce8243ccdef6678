"""Where Prefect, MLflow and DVC keep their state, and that none of them phones home.

Set as environment variables before these libraries are first imported; whatever the caller has set stays.
"""

import logging
import os

from storyreason import runs
from storyreason.errors import StoryReasonError


def prepare() -> None:
    """Point the platform's parts at `runs/` of this checkout, unless the environment says otherwise."""
    root = runs.root()
    for name, value in {
        "DO_NOT_TRACK": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_HOME": str(root / "prefect"),
        "PREFECT_LOGGING_LEVEL": "INFO",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": f"sqlite:///{root / 'mlflow' / 'mlflow.db'}",
        "DVC_NO_ANALYTICS": "1",
        "GIT_PYTHON_REFRESH": "quiet",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)
    (root / "mlflow").mkdir(exist_ok=True)


class PlainFailures(logging.Filter):
    """Log a failure that a person can mend as its sentence alone; keep the stack trace of every other one."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if isinstance(error, StoryReasonError):
            record.exc_info = record.exc_text = None
            record.msg, record.args = str(error), ()
        return True

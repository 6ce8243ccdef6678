"""A move of the champion that waits: somebody made it in MLflow, and it is neither deployed nor taken back.

It may wait for another deployment, or for approval. `runs/deploying/<model>/waiting.json` has it, so that it outlives a kill.
"""

import json
from pathlib import Path

from storyreason import runs


def note(model: str, number: str, before: str) -> None:
    """Remember that version `number` is the champion in MLflow, while version `before` is served."""
    runs.write_text(_file(model), json.dumps({"number": number, "before": before}) + "\n")


def before(model: str, number: str) -> str | None:
    """The version that is served while the move of the champion to `number` waits; None if that does not wait."""
    try:
        found = json.loads(_file(model).read_text())
        return str(found["before"]) if found["number"] == number else None
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # damaged: as if nothing waited
        return None


def over(model: str) -> None:
    """Forget the move: the champion was deployed, or is the one before again."""
    _file(model).unlink(missing_ok=True)


def _file(model: str) -> Path:
    return runs.root() / "deploying" / model / "waiting.json"

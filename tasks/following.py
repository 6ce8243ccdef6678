"""The registry as a switch: somebody makes another version the champion in MLflow, and it is deployed.

MLflow tells nobody that an alias was moved, nor who moved it, so it is asked. `runs/followed.json` has the champion that was
seen last, so that a move is noticed that was made while nobody looked.
"""

import json
import time
from dataclasses import dataclass

from storyreason import runs
from storyreason.config import RunConfig
from storyreason.serving import state as gateway
from tasks import gate, registry, tracking, waiting

EVERY = 4.0
"""Seconds between two questions."""
REFUSED = "champion_refused"
"""The tag of a version that somebody made the champion and that was not deployed: why."""


@dataclass(frozen=True)
class Move:
    """Somebody made version `number` of a model the champion, in place of `before`."""

    model: str
    number: str
    before: str


def look(config: RunConfig) -> Move | None:
    """A move of the champion that was not seen before, and that is not our own; it waits from now on. Raises RegistryError.

    Our own deployments serve a version before they make it the champion.
    """
    found = registry.number_of(config.model, "champion")
    known = _seen().get(config.model)
    if found is None or found == known:
        return None
    served = gateway.served(config.serving.gateway)
    if known is None or (served is not None and served.registered == f"models:/{config.model}/{found}"):
        seen(config.model, found)
        return None
    before = waiting.before(config.model, known) or known  # a move before this one may wait, too
    if before == found:  # and was taken back
        return Move(config.model, found, known)
    waiting.note(config.model, found, before)
    return Move(config.model, found, before)


def seen(model: str, number: str) -> None:
    """Remember a champion, so that it is not deployed (again)."""
    runs.write_text(runs.root() / FILE, json.dumps({**_seen(), model: number}) + "\n")


def note(move: Move) -> None:
    """Record with the version that its alias was moved. MLflow does not know by whom."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    told = f"in MLflow, in place of version {move.before}, by somebody whom MLflow does not name; seen {now}"
    tracking.client().set_model_version_tag(move.model, move.number, f"{tracking.TAG}champion_moved", told)


def undo(move: Move, reason: str) -> None:
    """Make the version before the champion again, unless somebody else was faster; say why with the version, and announce it."""
    mlflow = tracking.client()
    seen(move.model, move.before)
    if registry.number_of(move.model, "champion") == move.number:
        mlflow.set_registered_model_alias(move.model, "champion", move.before)
    if waiting.before(move.model, move.number):
        waiting.over(move.model)
    mlflow.set_model_version_tag(move.model, move.number, f"{tracking.TAG}{REFUSED}", reason[:4000])
    gate.announce_held(move.model, move.number, reason)


FILE = "followed.json"


def _seen() -> dict[str, str]:
    try:
        found = json.loads((runs.root() / FILE).read_text())
        return {str(model): str(number) for model, number in found.items()}
    except (FileNotFoundError, ValueError, AttributeError):  # damaged: as if nobody had looked yet
        return {}

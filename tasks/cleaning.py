"""Disk space: remove from `runs/` what no alias, no gateway and no running job uses.

Everything removed can be made again; runs, scores and reports stay in MLflow.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storyreason import runs
from storyreason.errors import RunError
from storyreason.serving import state as gateway
from tasks import artifacts, bases, builds, cache, registry
from tasks.faults import plainly
from tasks.results import RESULTS, TRAINING

CACHES = {"features": "features of pictures", "prepared": "prepared stories", "data": "data of a version"}

INTERRUPTED = {
    "what an interrupted removal left": (f"*/{cache.GONE}*", f"*/*/{cache.GONE}*"),
    "what an interrupted step left": (
        "data/.*.part",
        "register/*/.model.*",
        *(f"{one}/*/{name}" for one in TRAINING for name in (".checkpoint-*", ".result")),
        *(f"improve/*/{name}" for name in ("model", ".model.*")),  # what answered a round, of no use after it
    ),
}
"""Folders that whoever was killed would have renamed or removed; the step removes its own only when it is started again."""
NAMED = 5
"""Folders of one kind that a report names; more are counted."""
UNREGISTERED = 86400.0
"""Seconds that bytes may be in the store of versions before a version has them."""


@dataclass(frozen=True)
class Item:
    """A folder to remove, what it holds, and its size."""

    path: Path
    what: str
    bytes: int
    stored: str = ""
    """Its path in the store of versions, if it is a file there."""


@plainly()
def plan(keep: int, look: bool = False) -> list[Item]:
    """What can be removed when the newest `keep` versions of each model stay, and all that an alias or the gateway names.

    These are the merged weights, training results, evaluations and comparisons of older versions; trainings without a
    version, except the newest `keep` and those that an improvement that stays starts from; checkpoints of complete
    trainings; cached data and features that are not among the newest `keep` of their kind, nor the base of a training that
    stays; what the newest `keep` builds of data sets do not use; and what killed processes left of all these. Raises
    RunError while a job runs, unless the caller only means to `look`.
    """
    if not look:
        refuse_while_running()
    root = runs.root()
    kept, old = _versions(keep)
    items = [_item(Path(version.folder).parent, f"weights of {_name(version)}") for version in old]
    of_kept = {version.run_id for version in kept}
    of_old = {version.run_id for version in old} - of_kept
    loose: list[Path] = []
    for folder in (one for step in TRAINING for one in _folders(root / step)):
        run_id = _run_of(folder)
        if run_id in of_old:
            items.append(_item(folder, f"training of run {run_id}"))
        elif run_id not in of_kept:
            loose.append(folder)
        if run_id is not None and run_id not in of_old and not _keeps_checkpoints(folder):
            items += [
                _item(path, "a checkpoint of a complete training") for path in sorted(folder.glob("checkpoint-*"))
            ]
    loose.sort(key=lambda folder: folder.stat().st_mtime)
    stale = set(loose[: max(len(loose) - keep, 0)])
    going = stale | {item.path for item in items}
    needed = {_start_of(folder) for folder in _folders(root / "improve") if folder not in going}
    stale -= needed
    items = [item for item in items if item.path.parent not in stale and item.path not in needed]
    items += [_item(folder, "a training without a version") for folder in sorted(stale)]
    for step in ("evaluate", "compare"):
        for folder in _folders(root / step):
            if (run_id := _run_of(folder)) in of_old:
                items.append(_item(folder, f"{step} of run {run_id}"))
    gone = {item.path for item in items}
    based_on = {
        Path(_job(folder)["base"]) for step in TRAINING for folder in _folders(root / step) if folder not in gone
    }
    for kind, what in CACHES.items():
        made = sorted(set(_folders(root / kind)) - based_on, key=lambda folder: folder.stat().st_mtime)
        items += [_item(folder, what) for folder in made[: max(len(made) - keep, 0)]]
    items += [_item(folder, "a base that no version goes over") for folder in bases.unreferenced()]
    items += [_item(folder, what) for folder, what in builds.removable(keep)]
    in_use = {Path(version.folder) for version in kept} | {Path(folder) for folder in _served()}
    items = [item for item in items if item.path.exists() and not any(_holds(item.path, path) for path in in_use)]
    items = [item for item in items if not cache.is_held(item.path)]  # a `tell` or a notebook loads it
    return [*items, *_interrupted(items), *_stored()]


def _interrupted(items: list[Item]) -> list[Item]:
    """What killed processes left, beside what these items hold."""
    left = {path: what for what, patterns in INTERRUPTED.items() for one in patterns for path in runs.root().glob(one)}
    outside = (path for path in sorted(left) if path.is_dir() and not any(_holds(item.path, path) for item in items))
    return [_item(path, left[path]) for path in outside]


def _stored() -> list[Item]:
    """What the store of versions holds beside the versions in MLflow, which all stay; nothing if MLflow knows none of them.

    Another machine stores the bytes of a version before it registers it: they are left for a day.
    """
    if not artifacts.address():
        return []
    named = {one.name for version in _all() for one in (version.stored, version.base) if one}
    found = artifacts.unreferenced(named, older=UNREGISTERED) if named else {}
    return [Item(Path(path), "bytes in the store that no version has", size, path) for path, size in found.items()]


def remove(items: list[Item]) -> None:
    """Remove them, renaming each first, so that a folder is either whole or gone."""
    versions, removed = _all(), []
    for item in items:
        if item.stored:
            artifacts.remove(item.stored)
        elif cache.remove(item.path):
            removed.append(item.path)
    builds.sweep()
    for version in versions:
        gone = any(_holds(path, Path(version.folder)) for path in removed)
        if gone and version.stored is None and "cleaned" not in registry.tags_of(version):
            registry.tag_version(version, cleaned=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))


def _versions(keep: int) -> tuple[list[registry.Version], list[registry.Version]]:
    """The versions to keep, and those that can be removed."""
    by_name: dict[str, list[registry.Version]] = {}
    for version in _all():
        by_name.setdefault(version.name, []).append(version)
    kept: list[registry.Version] = []
    old: list[registry.Version] = []
    served = _served()
    for name, versions in by_name.items():
        versions.sort(key=lambda version: int(version.number), reverse=True)
        named = registry.aliased(name)
        for place, version in enumerate(versions):
            used = version.number in named or version.folder in served
            (kept if used or place < keep else old).append(version)
    return kept, old


def _served() -> set[str]:
    """The model folders that the checkout's gateways serve, or would serve again."""
    states = (gateway.served(name) for name in gateway.names())
    return {state.folder for state in states if state is not None}


def _all() -> list[registry.Version]:
    return [version for name in registry.models() for version in registry.versions(name)]


def refuse_while_running() -> None:
    """Raises RunError when a step's folder, or a flow's Prefect server, is held by a process, or a flow run is active."""
    root = runs.root()
    steps = (*RESULTS, "change")
    held = [root / "prefect", *(folder for step in steps for folder in _folders(root / step))]
    for folder in held:
        for place in (folder, folder / "flow"):
            if (place / ".lock").exists():
                try:
                    with runs.lock(place, wait=0):
                        pass
                except RunError:
                    raise RunError(f"A job is running (it holds {place}): try again when it has ended.") from None
    if not os.environ.get("PREFECT_API_URL"):
        return
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.objects import StateType
    from prefect.runtime import flow_run

    active = [StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING]
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": active}}}), limit=2
        )
    found = [run for run in found if str(run.id) != flow_run.get_id()]  # a scheduled `clean` is a flow run itself
    if found:
        raise RunError(f"Flow run {found[0].name} is active: try again when it has ended, or cancel it.")


def _keeps_checkpoints(training: Path) -> bool:
    """Whether the configuration of a training asks to keep its checkpoints (`training.keep_checkpoints`)."""
    return bool(_job(training)["training"].get("keep_checkpoints"))


def _start_of(improvement: Path) -> Path | None:
    """The training that an improvement goes on from: it is needed until both have their versions."""
    start = _job(improvement)["start"]
    return runs.root() / "train" / Path(start).parent.name if start else None


def _job(training: Path) -> dict[str, Any]:
    """The job of a training, as far as it says what is kept."""
    try:
        found: dict[str, Any] = json.loads((training / "job.json").read_text())
    except FileNotFoundError:
        found = {}
    return {"training": {}, "base": "", "start": None, **found}


def _run_of(folder: Path) -> str | None:
    """The MLflow run of a complete step."""
    manifest = runs.read_manifest(folder)
    return manifest.get("run_id") if manifest else None


def _folders(place: Path) -> list[Path]:
    return sorted(path for path in place.glob("*") if path.is_dir() and not path.name.startswith("."))


def _holds(folder: Path, path: Path) -> bool:
    return folder == path or folder in path.parents


def _name(version: registry.Version) -> str:
    return f"{version.name} version {version.number}"


def _item(path: Path, what: str) -> Item:
    return Item(path, what, runs.size(path))


def report(items: list[Item], removed: bool) -> str:
    """One line per folder, or for many of one kind, and the total."""
    if not items:
        return "nothing to remove: all that is in runs/ is in use or among the newest"
    kinds: dict[tuple[str, Path], list[Item]] = {}
    for item in items:
        kinds.setdefault((item.what, item.path.parent), []).append(item)
    lines = []
    for (what, place), of_kind in kinds.items():
        if len(of_kind) > NAMED:
            lines.append(_line(sum(item.bytes for item in of_kind), f"{what}, {len(of_kind)} times", place))
        else:
            lines += [_line(item.bytes, what, item.path) for item in of_kind]
    total = sum(item.bytes for item in items) / 1e6
    verb = "removed" if removed else "would be removed"
    return "\n".join([*lines, f"{len(items)} items, {total:,.1f} MB, {verb}"])


def _line(size: int, what: str, place: Path) -> str:
    return f"{size / 1e6:10,.1f} MB  {what}: {place}"

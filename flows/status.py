"""`storyreason status`: what runs in this checkout, what is served, what was trained, and what waits for a person."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from flows import changes, up
from storyreason import home, runs
from storyreason.errors import RegistryError, RunError, StoryReasonError, without_password
from storyreason.serving import client, state
from storyreason.serving.config import ServingConfig
from tasks import pace, settings, upgrading
from tasks.faults import one_line, plainly
from tasks.settings import Settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

LAST = 5
"""How many of the last runs are shown."""


@dataclass(frozen=True)
class Status:
    """One look at a checkout, in JSON's types. What cannot be known now is None, and `problems` says why."""

    home: str
    runs: str
    up: bool
    """Whether `storyreason up` is running."""
    changed_settings: list[str]
    """Settings that differ from those `up` was started with."""
    servers: dict[str, dict[str, Any]]
    """Address of each server of the platform, and whether it answers."""
    gateways: list[dict[str, Any]]
    """Name, address, health and served version of each gateway of the checkout."""
    models: dict[str, dict[str, str]]
    """The versions that the aliases of each registered model name."""
    data: dict[str, str]
    """The MD5 of each DVC file."""
    last_runs: list[dict[str, Any]] | None
    """The newest runs in MLflow: name, state, when they began (UTC) and how long they took in seconds."""
    active: list[dict[str, Any]] | None
    """Prefect's runs that are under way. `left` says how long a retraining still takes, else how far it is; or None."""
    approvals: list[dict[str, str]] | None
    """Runs that wait for approval, and where to answer."""
    disk: dict[str, Any]
    """Free bytes, and the bytes of each folder of `runs/`."""
    problems: list[str]


def look() -> Status:
    """Look at this checkout, and start nothing."""
    chosen = settings.read()
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # a run is patient, a look is not
    problems: list[str] = []

    def asked(ask: Callable[[], Any]) -> Any:
        try:
            with plainly():
                return ask()
        except StoryReasonError as error:
            problems.append(str(error))
        return None

    servers = dict(_servers(chosen))
    prefect = servers["prefect"]["answers"]
    if prefect:
        os.environ.setdefault("PREFECT_API_URL", f"{servers['prefect']['address']}/api")
    return Status(
        home=str(home.folder()),
        runs=str(runs.root()),
        up=up.running() is not None,
        changed_settings=up.changed_settings(chosen),
        servers=servers,
        gateways=list(_gateways()),
        models=asked(_models) or {},
        data=dict(_data(problems)),
        last_runs=asked(_last_runs),
        active=asked(_active) if prefect else None,
        approvals=asked(_approvals) if prefect else None,
        disk=_disk(),
        problems=list(dict.fromkeys(problems)),
    )


def _servers(chosen: Settings) -> Iterator[tuple[str, dict[str, Any]]]:
    elsewhere = up.elsewhere(chosen)
    for name, address, probe in (
        ("prefect", chosen.prefect_url, "/api/health"),
        ("mlflow", chosen.mlflow_url, "/health"),
    ):
        address = elsewhere.get(name, address).removesuffix("/api")
        yield name, {"address": address, "answers": up.is_used(name, chosen) and settings.answers(f"{address}{probe}")}


def _gateways() -> Iterator[dict[str, Any]]:
    for name in state.names():
        address, running = state.address(name), client.is_running(name)
        shown: dict[str, Any] = {"name": name, "address": None, "healthy": False, "problem": "it is not running"}
        served = state.served(name)
        shown |= {"registered": served and served.registered, "version": served and served.version}
        if address is not None and running:
            config = ServingConfig(host=address.host, port=address.port, gateway=name)
            shown["address"] = client.url(config)
            try:
                now = client.status(config)
                shown |= {"healthy": now.healthy, "problem": now.problem, "requests": now.requests}
            except StoryReasonError as error:
                shown["problem"] = str(error)
        yield shown


def _models() -> dict[str, dict[str, str]]:
    from tasks import registry

    if not _has_runs():
        return {}
    return {name: dict(sorted(registry.aliases(name).items())) for name in registry.models()}


def _has_runs() -> bool:
    """Whether MLflow has a store that can be asked. Asking would create a database, and migrate an older one."""
    if "MLflow" in [database.name for database in upgrading.outdated()]:
        raise RegistryError(
            "MLflow's database was made by an older version: `storyreason up` migrates it, and keeps a copy."
        )
    store = os.environ["MLFLOW_TRACKING_URI"]
    return not store.startswith("sqlite:///") or Path(store.removeprefix("sqlite:///")).exists()


def _data(problems: list[str]) -> Iterator[tuple[str, str]]:
    import yaml

    for file in sorted(home.folder().glob("*.dvc")):
        if not file.is_file():  # a folder `.dvc`
            continue
        try:
            yield file.name, str(yaml.safe_load(file.read_text())["outs"][0]["md5"]).removesuffix(".dir")
        except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError) as error:
            problems.append(f"{file.name} names no version of data ({one_line(error)}): take it from Git again.")


def _last_runs() -> list[dict[str, Any]]:
    from tasks import tracking

    if not _has_runs():
        return []
    shown = []
    for run in tracking.newest(LAST):
        began, ended = run.info.start_time, run.info.end_time
        shown.append(
            {
                "name": run.info.run_name,
                "state": run.info.status,
                "began": datetime.fromtimestamp(began / 1000, UTC).isoformat(timespec="seconds"),
                "seconds": round((ended - began) / 1000) if ended else None,
                "address": tracking.address(run.info.run_id),
            }
        )
    return shown


def _active() -> list[dict[str, Any]]:
    found = _flow_runs(["PENDING", "RUNNING", "CANCELLING"])
    left = _left([str(run.id) for run in found])
    return [
        {"name": run.name, "state": run.state_name, "address": _page(run), "left": left.get(str(run.id))}
        for run in found
    ]


def _left(flow_runs: list[str]) -> dict[str, str]:
    """What the progress artifacts of runs say: that of the whole retraining, else the newest."""
    from prefect.client.schemas.filters import ArtifactFilter
    from prefect.client.schemas.sorting import ArtifactSort

    wanted = ArtifactFilter.model_validate({"type": {"any_": ["progress"]}, "flow_run_id": {"any_": flow_runs}})
    with _prefect() as asked:
        shown = asked.read_artifacts(artifact_filter=wanted, sort=ArtifactSort.UPDATED_DESC)
    said: dict[str, str] = {}
    for one in sorted(shown, key=lambda one: one.key != pace.KEY):  # stable: the newest stay first
        said.setdefault(str(one.flow_run_id), one.description or "")
    return said


def _approvals() -> list[dict[str, str]]:
    return [{"name": run.name, "address": _page(run)} for run in _flow_runs(["PAUSED"])]


def _flow_runs(states: list[str]) -> "list[FlowRun]":
    from prefect.client.schemas.filters import FlowRunFilter

    with _prefect() as asked:
        return asked.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": states}}}))


@contextmanager
def _prefect() -> "Iterator[SyncPrefectClient]":
    """A client of the server in PREFECT_API_URL, which Prefect has not read if it was imported before that was set."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    url = os.environ["PREFECT_API_URL"]
    try:
        with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as asked:
            yield asked
    except (httpx.HTTPError, ValueError) as error:  # ValueError: what answers there is not Prefect
        raise RunError(
            f"Prefect's server cannot be asked at {without_password(url)}: {one_line(error).rstrip('.')}."
        ) from None


def _page(run: "FlowRun") -> str:
    return f"{os.environ['PREFECT_API_URL'].removesuffix('/api')}/runs/flow-run/{run.id}"


def _disk() -> dict[str, Any]:
    root = runs.root()
    sizes = {folder.name: runs.size(folder) for folder in sorted(root.iterdir()) if folder.is_dir()}
    return {"free": shutil.disk_usage(root).free, "folders": {name: one for name, one in sizes.items() if one}}


def lines(found: Status) -> Iterator[str]:
    """The status as a person reads it, on one screen."""
    yield f"checkout   {found.home}  (runs in {found.runs})"
    if found.changed_settings:
        yield f"settings   {changes.sentence(found.changed_settings)}"
    for name, server in found.servers.items():
        yield f"{name:<10} {server['address']}{'' if server['answers'] else '  does not answer: start it with `storyreason up`'}"
    for one in found.gateways:
        name = f"gateway {one['name']}".strip()
        version = one["registered"] or one["version"] or "no model"
        serves = (
            f"serves {version}" if one["healthy"] else f"{version} is not served: {one['problem'] or 'it is starting'}"
        )
        yield f"{name:<10} {one['address'] or '-'}  {serves}"
    for name, aliases in found.models.items():
        yield f"{'model':<10} {name}: {', '.join(f'{alias} {number}' for alias, number in aliases.items())}"
    for name, md5 in found.data.items():
        yield f"{'data':<10} {name}: version {md5[:8]}"
    for run in found.active or ():
        yield f"{'running':<10} {run['name']}, {run['state']}{', ' if run['left'] else ''}{run['left'] or ''}: {run['address']}"
    for run in found.approvals or ():
        yield f"{'approval':<10} {run['name']} waits for your answer: {run['address']}"
    for run in found.last_runs or ():
        took = "" if run["seconds"] is None else f", {_duration(run['seconds'])}"
        yield f"{'run':<10} {run['began'].replace('T', ' ')[:16]}  {run['state'].lower()}{took}: {run['name']}"
    folders = sorted(found.disk["folders"].items(), key=lambda one: -one[1])
    shown = ", ".join(f"{name} {_bytes(one)}" for name, one in folders[:5])
    total = _bytes(sum(found.disk["folders"].values()))
    yield f"{'disk':<10} {_bytes(found.disk['free'])} free; runs/ has {total}{f' ({shown})' if shown else ''}"
    for problem in found.problems:
        yield f"{'problem':<10} {problem}"


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


def _duration(seconds: int) -> str:
    return f"{seconds} s" if seconds < 120 else f"{seconds / 60:.0f} min"

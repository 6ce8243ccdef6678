"""`storyreason doctor`: what would stop a retraining in this checkout, each with its remedy."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from flows import changes, disk, up
from storyreason import home, runs
from storyreason.config import RunConfig
from storyreason.errors import StoryReasonError
from tasks import settings

LEAST_MEMORY = 6e9
"""Bytes that the smallest retraining wants: two training processes, or one engine on a CPU."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. A fault stops a retraining; a warning may. `found` may hold the remedy itself."""

    name: str
    state: Literal["ok", "warning", "fault"]
    found: str
    remedy: str = ""


def examine(config: RunConfig) -> Iterator[Finding]:
    """Look at all that a retraining with this configuration needs. Starts and changes nothing."""
    looks: dict[str, Callable[[RunConfig], Iterator[Finding]]] = {
        "settings": _settings,
        "versions": _versions,
        "databases": _databases,
        "training": _training,
        "memory": _memory,
        "disk": _disk,
        "ports": _ports,
        "proxies": _proxies,
        "data": _data,
        "base model": _base,
        "later steps": _later,
    }
    for name, look in looks.items():
        try:
            yield from look(config)
        except StoryReasonError as error:
            yield Finding(name, "fault", str(error))  # which says what to do


def _settings(_: RunConfig) -> Iterator[Finding]:
    chosen = settings.read()
    if changed := up.changed_settings(chosen):
        yield Finding("settings", "warning", changes.sentence(changed), "storyreason up --restart")
    else:
        yield Finding("settings", "ok", f"of {home.folder()}, runs in {runs.root()}")


def _versions(_: RunConfig) -> Iterator[Finding]:
    """What is installed against the lock."""
    kind = "gpu" if _gpus() else "cpu"
    lock = home.folder() / "deploy" / f"requirements-{kind}.txt"
    if not lock.is_file():
        yield Finding("versions", "warning", f"there is no lock {lock}", "work in a clone of the project")
        return
    wanted = dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", lock.read_text(), re.M))
    differing = []
    for name, version in wanted.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            found = "not installed"
        if found != version and found.partition("+")[0] != version:  # torch names its build: 2.13.0+cpu
            differing.append(f"{name} {found} (locked: {version})")
    if differing:
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        yield Finding("versions", "warning", f"{', '.join(differing[:5])}{more}", "make install")
    else:
        yield Finding("versions", "ok", f"all {len(wanted)} packages of {lock.name}")


def _databases(_: RunConfig) -> Iterator[Finding]:
    """The databases of Prefect and MLflow, which an older version may have made."""
    from tasks import upgrading

    names = [database.name for database in upgrading.outdated()]
    if names:
        said = (
            f"{' and '.join(names)} made by an older version: the next run migrates, and keeps a copy in runs/backups"
        )
        yield Finding("databases", "warning", said, "storyreason backup")
    else:
        yield Finding("databases", "ok", "as the installed versions want them")


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _training(config: RunConfig) -> Iterator[Finding]:
    """The accelerator that the preset trains on."""
    import torch

    from storyreason.training import launch

    gpus = ", ".join(torch.cuda.get_device_name(number) for number in range(_gpus())) or "no GPU"
    try:
        launch.check_machine(config.training)
    except StoryReasonError as error:
        yield Finding("training", "fault", f"{gpus}: {error}", "another preset, or training.accelerate")
        return
    on = config.training.accelerate or f"the CPU, {config.training.processes} processes"
    yield Finding("training", "ok", f"{gpus}; {config.name} trains on {on}")


def _memory(config: RunConfig) -> Iterator[Finding]:
    import psutil

    from storyreason.training import machine

    free = psutil.virtual_memory().available
    if free < LEAST_MEMORY:
        yield Finding(
            "memory", "warning", f"{free / 1e9:.1f} GB are available, {LEAST_MEMORY / 1e9:.0f} are wanted",
            "end other programs, or lower training.processes",
        )  # fmt: skip
    else:
        yield Finding("memory", "ok", f"{free / 1e9:.1f} GB are available")
    machine.check_memory(config.training.devices, config.training.free_memory_gb)


def _disk(config: RunConfig) -> Iterator[Finding]:
    """The free space at the runs and at the Hub's cache, against what a retraining wants."""
    from huggingface_hub.constants import HF_HUB_CACHE

    root, wanted = runs.root(), disk.wanted(config)
    free, least = shutil.disk_usage(root).free, disk.LEAST if wanted is None else wanted.runs
    there = f"{free / 1e9:.1f} GB are free at {root}"
    remedy = "make room: storyreason clean --keep 1, or move runs with STORYREASON_RUNS"
    fetched = wanted.fetched if wanted else 0.0
    hub = next(folder for folder in (Path(HF_HUB_CACHE), *Path(HF_HUB_CACHE).parents) if folder.is_dir())
    if hub.stat().st_dev == root.stat().st_dev:
        least += fetched
    elif (room := shutil.disk_usage(hub).free) < fetched:
        said = f"{room / 1e9:.1f} GB are free at {hub}, and {config.base.name} of {fetched / 1e9:.0f} comes there"
        yield Finding("disk", "fault", said, "make room there, or name another disk with HF_HOME")
    if free < least:
        yield Finding("disk", "fault", f"{there}, about {least / 1e9:.0f} are wanted", remedy)
    elif wanted is None:
        unknown = f"neither this machine nor the Hub says the size of {config.base.name}"
        said = f"{there}; whether they suffice is not known: {unknown}"
        yield Finding("disk", "warning", said, "look its size up: docs/storyreasoning.md says what the largest take")
    elif free < least + wanted.features:
        said = f"{there}, about {least / 1e9:.0f} are wanted, and up to {wanted.features / 1e9:.0f} for features of pictures"
        yield Finding("disk", "warning", said, f"a lower training.feature_cache_gb, or {remedy}")
    else:
        yield Finding("disk", "ok", f"{there}, about {(least + wanted.features) / 1e9:.0f} are wanted at most")


def _ports(config: RunConfig) -> Iterator[Finding]:
    """The ports that `up` and the preset's gateway listen on."""
    from storyreason.serving import client

    chosen = settings.read()
    client.check(config.serving)
    if up.running() is not None:
        yield Finding("ports", "ok", "`storyreason up` is running")
        return
    for name in up.VIEWERS:
        port = {"prefect": chosen.prefect_port, "mlflow": chosen.mlflow_port}[name]
        if name in up.elsewhere(chosen):
            continue
        if not up.is_free(port):
            yield Finding(
                "ports", "warning", f"port {port} of {name} is in use, so `storyreason up` would not start",
                f"set STORYREASON_{name.upper()}_PORT to another port in .env",
            )  # fmt: skip
            return
    yield Finding("ports", "ok", f"{chosen.prefect_port}, {chosen.mlflow_port} and {config.serving.port} can be used")


def _proxies(_: RunConfig) -> Iterator[Finding]:
    named = [
        name
        for name in ("http_proxy", "https_proxy", "all_proxy")
        if os.environ.get(name) or os.environ.get(name.upper())
    ]
    if not named:
        yield Finding("proxies", "ok", "none")
        return
    if os.environ.get("no_proxy", "") == "*":
        yield Finding("proxies", "ok", f"{', '.join(named)}, but no_proxy excepts every host")
        return
    yield Finding("proxies", "ok", f"{', '.join(named)}; this machine's own servers are asked directly")


def _data(config: RunConfig) -> Iterator[Finding]:
    """The data version, and whether it is here or the DVC remote has it."""
    from tasks import data, versioning

    version = versioning.identify(config.data.target, config.data.rev)
    cached = versioning.is_cached(version)
    if not cached:
        versioning.check_remote(version)
    data.check_source(config, version)
    if cached:
        yield Finding("data", "ok", f"{version.target}, version {version.md5[:8]}, is here; remote {version.remote}")
        return
    yield Finding("data", "ok", f"{version.target}, version {version.md5[:8]}, is in {version.remote}")


def _base(config: RunConfig) -> Iterator[Finding]:
    from tasks import versioning

    name = config.base.name
    if (home.folder() / f"{name}.dvc").is_file():
        version = versioning.identify(f"{name}.dvc", None)
        if not versioning.is_cached(version):
            versioning.check_remote(version)
        yield Finding("base model", "ok", f"{name}, version {version.md5[:8]}")
    elif Path(name).is_dir():
        yield Finding("base model", "ok", f"the folder {name}")
    else:
        yield from _hub(name, config.base.revision)


def _hub(name: str, revision: str | None) -> Iterator[Finding]:
    """A base model on the Hub: in its cache, or to be fetched, for which a token may be needed."""
    from huggingface_hub import get_token, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        yield Finding("base model", "ok", f"{name} is in the Hub's cache")
    elif os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        yield Finding(
            "base model", "fault", f"{name} is not in the Hub's cache, and HF_HUB_OFFLINE is set",
            "fetch it where there is a network, or unset HF_HUB_OFFLINE",
        )  # fmt: skip
    elif get_token() is None:
        yield Finding(
            "Hub token", "warning", f"{name} comes from the Hub, and no token is set: gated models and many requests need one",
            "hf auth login, or HF_TOKEN",
        )  # fmt: skip
    else:
        yield Finding("base model", "ok", f"{name} comes from the Hub; a token is set")


def _later(config: RunConfig) -> Iterator[Finding]:
    """What evaluation, gate and deployment want: engines, and a judge if there is one."""
    from storyreason.generation import command, vllm
    from tasks import judging

    command.check(config.serving, vllm.gpus)
    vllm.refuse_untold(config.base.name)
    judging.check(config)
    yield Finding("later steps", "ok", "engines and judge can be had")


def lines(findings: list[Finding]) -> Iterator[str]:
    """The findings as a person reads them."""
    for one in findings:
        yield f"{one.state:<8} {one.name:<11} {one.found}{f'  -> {one.remedy}' if one.remedy else ''}"
    found = {"fault": "a retraining would stop", "warning": "a retraining may stop"}
    for state, said in found.items():
        if count := sum(one.state == state for one in findings):
            yield f"{count} {state}{'' if count == 1 else 's'}: {said}"
            return
    yield "nothing would stop a retraining"

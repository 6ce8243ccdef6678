"""Backup and restore of what a checkout cannot make again: databases, artifacts, versions, and data that was never pushed.

A backup is one tar file. What can be made again or fetched is left out: data that the remote has, caches, logs, checkpoints.
"""

import io
import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from storyreason import home, runs
from storyreason.errors import RunError, without_password
from tasks import artifacts, moving, registry, settings, tracking, upgrading, versioning, views
from tasks.faults import one_line, plainly
from tasks.results import TRAINING

ABOUT = "backup.json"
WHOLE = ("mlflow/artifacts", "evaluate", "compare", "stories")
"""Folders of `runs/` that are small and whole: artifacts, answers, scorecards and pages."""
GATEWAY = ("state.json", "token", "api-keys", "deployments.jsonl")
LEFT_OUT = ("checkpoint-*", ".*", "*.lock", "log.txt", "vllm*.log")
"""Files and folders within a step that are not needed once it is complete."""
FORMAT = 1


@dataclass(frozen=True)
class Report:
    """What a backup holds, in bytes by what it is, and what it does not hold."""

    held: dict[str, int]
    left_out: list[str]
    vanished: list[str]
    """Files that were removed while it was written, by their names in it."""


@plainly()
def write(file: Path, all_versions: bool = False) -> Report:
    """Write a backup while the checkout may be in use. Only the owner can read it: it holds `.env`, token and keys.

    Of the versions, those that an alias names or a gateway serves come with their weights, or all. Raises RunError when
    there is nothing to back up.
    """
    folders, lacking = _versions(all_versions)
    parts = list(_parts(folders))
    if not parts:
        raise RunError(f"{runs.root()} has no database, version or answer yet: there is nothing to back up.")
    left_out = [*_elsewhere(), *lacking]
    held: dict[str, int] = {}
    vanished = []
    part = file.with_name(f".{file.name}.part")
    part.unlink(missing_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            with tarfile.open(fileobj=out, mode="w") as tar:
                about = {
                    "format": FORMAT,
                    "runs": str(runs.root()),
                    "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "left_out": left_out,
                }
                _add_text(tar, ABOUT, json.dumps(about))
                for kind, name, source in parts:
                    try:
                        held[kind] = held.get(kind, 0) + _add(tar, kind, name, source)
                    except FileNotFoundError:  # whoever made it goes on meanwhile
                        vanished.append(name)
            out.flush()
            os.fsync(out.fileno())
        part.rename(file)
    finally:
        part.unlink(missing_ok=True)
    return Report(held, left_out, vanished)


def _parts(versions: list[Path]) -> Iterator[tuple[str, str, Path]]:
    """What goes into a backup: its kind, its name there, and where it is."""
    root = runs.root()
    for name, path in databases().items():
        yield "databases", name, path
    for whole in WHOLE:
        yield from (("artifacts and answers", f"runs/{one.relative_to(root)}", one) for one in _files(root / whole))
    for folder in versions:
        yield from (("versions", inside, one) for one in _files(folder) if (inside := _name(one)))
    for gateway in root.glob("gateway*"):
        kept = [gateway / name for name in GATEWAY if (gateway / name).is_file()]
        yield from (("settings", f"runs/{gateway.name}/{one.name}", one) for one in kept)
    if (root / "durations.jsonl").is_file():
        yield "settings", "runs/durations.jsonl", root / "durations.jsonl"
    for path in [home.folder() / ".env", *_changed_dvc_files()]:
        if path.is_file():
            yield "settings", f"checkout/{path.name}", path
    yield from (("data that was never pushed", f"dvc/{name}", path) for name, path in unpushed().items())


def databases() -> dict[str, Path]:
    """The SQLite databases in `runs/`, by their names in a backup."""
    root = runs.root()
    used = map(_local, _addresses().values())
    found = [root / "mlflow" / "mlflow.db", root / "prefect" / "prefect.db", *(path for path in used if path)]
    named = {_name(path): path for path in found if path.is_file()}
    return {name: path for name, path in named.items() if name and name.endswith(".db")}


def _addresses() -> dict[str, str]:
    """Where MLflow and Prefect keep their data, by the variables that say so."""
    found = {"MLFLOW_TRACKING_URI": os.environ.get("MLFLOW_TRACKING_URI", "")}
    server = os.environ.get("PREFECT_API_URL", "")
    if server and server != f"{settings.read().prefect_url}/api":
        found["PREFECT_API_URL"] = server
    elif database := os.environ.get("PREFECT_API_DATABASE_CONNECTION_URL"):
        found["PREFECT_API_DATABASE_CONNECTION_URL"] = database
    elif place := os.environ.get("PREFECT_HOME"):
        found["PREFECT_HOME"] = f"{upgrading.SQLITE}{place}/prefect.db"
    return {name: address for name, address in found.items() if address}


def _local(address: str) -> Path | None:
    """The path of a database or of artifacts on this machine's disks; None for an address on a server."""
    if address.startswith("file:"):
        return Path(unquote(urlsplit(address).path))
    path = address.partition(":///")[2].partition("?")[0] if address.startswith("sqlite") else address
    return None if "://" in path else Path(path).absolute()


def _name(path: Path) -> str | None:
    """The name in a backup of a path in `runs/`; None for one elsewhere."""
    for one, root in ((path, runs.root()), (path.resolve(), runs.root().resolve())):
        if one.is_relative_to(root):
            return f"runs/{one.relative_to(root)}"
    return None


def _elsewhere() -> Iterator[str]:
    """Databases and artifacts that are not in `runs/`, which a backup of this checkout does not hold."""
    for name, address in _addresses().items():
        path = _local(address)
        if path is None or not (_name(path) or "").endswith(".db"):
            yield f"{name} = {without_password(address)}"
    for name, address in _artifacts().items():
        path = _local(address)
        if path is None or not f"{_name(path)}/".startswith(f"runs/{WHOLE[0]}/"):
            yield f"{name} {without_password(address)}"


def _artifacts() -> dict[str, str]:
    """Where MLflow's artifacts are, as this checkout and MLflow say."""
    chosen = settings.read().mlflow_artifacts
    found = {"STORYREASON_MLFLOW_ARTIFACTS =": chosen} if chosen else {}
    if _has_mlflow() and (experiment := tracking.client().get_experiment_by_name(views.EXPERIMENT)) is not None:
        location = str(experiment.artifact_location)
        if location != chosen and not location.startswith("mlflow-artifacts:"):  # its server's own
            found["MLflow's artifacts in"] = location
    return found


def _has_mlflow() -> bool:
    """Whether there is an MLflow to ask: who opens a database of SQLite that does not exist makes it."""
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    path = _local(address)
    return bool(address) and (path is None or path.exists())


def _versions(all_versions: bool) -> tuple[list[Path], list[str]]:
    """The work folders of the versions to back up, which hold weights and the trainings that these come from; and the
    weights that are not here."""
    from storyreason.serving import state

    if not _has_mlflow():
        return [], []
    served = {known.folder for known in map(state.served, state.names()) if known}
    of_steps = (folder for step in TRAINING for folder in runs.root().glob(f"{step}/*"))
    trainings = {(runs.read_manifest(folder) or {}).get("run_id"): folder for folder in of_steps}
    found: dict[Path, None] = {}
    lacking: dict[tuple[str, str], list[str]] = {}
    for name in registry.models():
        aliased = registry.aliased(name)
        for version in registry.versions(name):
            if not (all_versions or version.number in aliased or version.folder in served):
                continue
            if (where := _where(version)) is None:
                found[Path(version.folder).parent] = None
            else:
                lacking.setdefault((name, where), []).append(version.number)
            if version.run_id in trainings:
                found[trainings[version.run_id]] = None
    said = (
        f"weights of {name} version{'s' if numbers[1:] else ''} {', '.join(sorted(numbers, key=int))}, which are {where}"
        for (name, where), numbers in lacking.items()
    )
    return list(found), list(said)


def _where(version: registry.Version) -> str | None:
    """Where the weights of a version are that a backup does not hold; None if they are in `runs/`."""
    folder = Path(version.folder)
    if folder.is_dir():
        return None if _name(folder) else f"in {folder.parent}"
    if version.stored is not None:
        return f"only in {artifacts.address() or 'a store that STORYREASON_ARTIFACTS does not name here'}"
    return "gone, or on the machine that registered them"


def _changed_dvc_files() -> list[Path]:
    """DVC files that Git does not have as they are."""
    command = ["git", "status", "--porcelain", "-z", "--no-renames", "--", "*.dvc"]
    try:
        done = subprocess.run(command, cwd=home.folder(), capture_output=True, text=True)
    except FileNotFoundError:
        return []
    found = [home.folder() / entry[3:] for entry in done.stdout.split("\0") if entry]
    return [path for path in found if path.is_file()]


def unpushed() -> dict[str, Path]:
    """The objects in DVC's cache that its remote lacks, by their MD5. If the remote cannot be asked, it counts as empty."""
    repo = versioning.repository()
    cache = repo.cache.local
    here = sorted(cache.all())
    try:
        there = set(repo.cloud.get_remote_odb().oids_exist(here)) if here else set()
    except (
        Exception
    ):  # no remote, or one that cannot be reached: DVC's own errors and those of clients of S3 and others
        there = set()
    return {name: Path(cache.oid_to_path(name)) for name in here if name not in there}


def _files(folder: Path) -> Iterator[Path]:
    """The files of a folder that a complete step needs."""
    for path in sorted(folder.glob("*")):
        if any(path.match(pattern) for pattern in LEFT_OUT):
            continue
        if path.is_dir():
            yield from _files(path)
        elif path.is_file():
            yield path


def _add(tar: tarfile.TarFile, kind: str, name: str, source: Path) -> int:
    """Add a file, a database as it is at one moment; gives its size. Raises FileNotFoundError, and then adds nothing."""
    if kind != "databases":
        with source.open("rb") as file:  # opened first: what is replaced or removed from now on is added as it was
            tar.addfile(tar.gettarinfo(arcname=name, fileobj=file), file)
            return os.fstat(file.fileno()).st_size
    copy = runs.root() / "backups" / f".{source.name}"
    upgrading.save(source, copy)
    try:
        tar.add(copy, name)
        return copy.stat().st_size
    finally:
        copy.unlink()


def _add_text(tar: tarfile.TarFile, name: str, text: str) -> None:
    content = text.encode()
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def restore(file: Path) -> list[str]:
    """Restore a backup into a checkout without runs, at any path; gives sentences on what is left to do.

    Paths in databases and manifests become those of this checkout. Raises RunError for a file that is not a whole backup,
    and where something would be overwritten; then nothing has changed.
    """
    root = runs.root()
    inside = root / ".restore"
    shutil.rmtree(inside, ignore_errors=True)
    try:
        with tarfile.open(file) as tar:
            tar.extractall(inside, filter="data")
        about = json.loads((inside / ABOUT).read_text())
    except (OSError, tarfile.TarError, ValueError, KeyError) as error:
        shutil.rmtree(inside, ignore_errors=True)
        raise RunError(f"{file} cannot be read as a backup: {one_line(error)}.") from None
    try:
        restored = inside / "runs"
        restored.mkdir(exist_ok=True)  # with both databases on servers there may be none
        if there := [one.name for one in restored.iterdir() if _holds_something(root / one.name)]:
            raise RunError(f"{root} has {', '.join(sorted(there))} already: move it away, then restore again.")
        moving.move(restored, Path(about["runs"]), root)
        left = [f"the backup does not hold {one}" for one in about.get("left_out", ())]
        left += _restore_checkout(inside / "checkout")
        if objects := _restore_objects(inside / "dvc"):
            left.append(f"{objects} files of data that was never pushed are in DVC's cache: push them with `dvc push`")
        for one in sorted(restored.iterdir()):
            if (root / one.name).is_dir():
                shutil.rmtree(root / one.name)
            one.rename(root / one.name)
    finally:
        shutil.rmtree(inside, ignore_errors=True)
    return left


def _holds_something(path: Path) -> bool:
    return path.is_file() or any(one.is_file() for one in path.rglob("*") if one.name not in (".lock", "server.log"))


def _restore_checkout(folder: Path) -> Iterator[str]:
    """Put back `.env` and DVC files, beside those that are already there and differ."""
    for file in sorted(folder.glob("*")):
        goal = home.folder() / file.name
        if not goal.exists() or goal.read_bytes() == file.read_bytes():
            shutil.copy(file, goal)
        elif not (kept := goal.with_name(f"{file.name}.restored")).exists():
            shutil.copy(file, kept)
            yield f"{goal} differs from the backup's, which is {kept.name}: take what you need from it"


def _restore_objects(folder: Path) -> int:
    """Put objects back into DVC's cache; gives how many there are."""
    if not folder.is_dir():
        return 0
    cache = versioning.repository().cache.local
    for file in folder.iterdir():
        goal = Path(cache.oid_to_path(file.name))
        if not goal.exists():
            goal.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, goal)
            goal.chmod(0o444)
    return len(list(folder.iterdir()))


def report(found: Report, file: Path) -> Iterator[str]:
    """What a backup holds, as a person reads it."""
    for kind, size in found.held.items():
        yield f"{size / 1e6:10,.1f} MB  {kind}"
    yield from (f"not in it: {one}" for one in found.left_out)
    if found.left_out:
        yield "back up where it is what is not in it"
    if gone := found.vanished:
        yield f"{len(gone)} file{'s' if gone[1:] else ''} went away while it was written: {gone[0]}{', …' if gone[1:] else ''}"
    yield f"{file}, which only you can read: it holds .env and the gateway's token. Restore it with: storyreason restore {file}"

"""Data and base model of a run, pulled through DVC and checked at the border."""

import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prefect import get_run_logger, task

from storyreason import dataset, runs
from storyreason.config import DataConfig
from storyreason.errors import DataError, ModelError, RunError
from tasks.steps import from_outside, plainly

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo

VERSION = 3  # raise it when what this step makes changes
NEW_VERSION = "storyreason.data.version"
"""The event that a new data version sends; its resource is `storyreason.data.<DVC file>`."""
RESOURCE = "storyreason.data"
TOLD = ", Prefect is told"
T = TypeVar("T")
BUSY = 8  # tries, 2 s apart: another pull holds DVC's lock, or one that was killed has left it behind for a moment


@dataclass(frozen=True)
class DataVersion:
    """One version of a folder under DVC, before it is pulled. `md5` names its content."""

    target: str
    rev: str | None
    md5: str
    folder: str
    """Where its files are, or will be once pulled (absolute)."""
    remote: str

    @property
    def fingerprint(self) -> str:
        return runs.fingerprint(step="pull", version=VERSION, md5=self.md5, folder=self.folder)


def identify(config: DataConfig) -> DataVersion:
    """Which data a run is about, from its DVC file alone. Raises DataError when local changes would be overwritten."""
    return _identify(config.target, config.rev)


def identify_base(name: str) -> DataVersion | None:
    """The DVC version of a base model's folder, or None when no DVC file stands beside it (another folder, the Hub)."""
    target = f"{name.rstrip('/')}.dvc"
    return _identify(target, None) if Path(target).is_file() else None


@task(
    name="pull",
    retries=2,
    retry_delay_seconds=2,
    retry_jitter_factor=0.5,
    retry_condition_fn=from_outside,
)
@plainly()
def pull(version: DataVersion, check: bool = True) -> dict[str, Any]:
    """Fetch one data version, verify every file's hash, check every example, and make the data card."""
    folder = runs.work_folder("pull", version.fingerprint)
    with _alone(version):  # another flow may have pulled just this until now
        return runs.read_manifest(folder) or _pull(version, check, folder)


def _pull(version: DataVersion, check: bool, folder: Path) -> dict[str, Any]:
    logger = get_run_logger()
    logger.info("pulling %s (md5 %s) from %s", version.target, version.md5[:8], version.remote)
    (_fetch_workspace if version.rev is None else _fetch_revision)(version)
    place, card, faulty = Path(version.folder), "", {}
    if check:
        place = _kept(version)
        report = dataset.check(place)
        card = report.markdown()
        faulty = {one.story_id: str(one) for one in report.bad if one.split == "test"}
        logger.info("%s", report.summary())
    return runs.write_manifest(
        folder, files=(str(place),), md5=version.md5, rev=version.rev, card=card, faulty_test_stories=faulty
    )


def stories_to_tell(config: DataConfig, data: dict[str, Any]) -> Iterator[dataset.Example]:
    """The test stories of a run, without those in which the check of `data` (the manifest of `pull`) found a fault.

    The log counts and names what is left out. Raises DataError when no story is left.
    """
    split, faults = dataset.load(data["files"][0], "test"), data["faulty_test_stories"]
    wanted = split.story_ids()[: config.test_stories]
    if left_out := [faults[name] for name in wanted if name in faults]:
        get_run_logger().warning("%d of %d test stories left out: %s", len(left_out), len(wanted), "; ".join(left_out))
    if len(left_out) == len(wanted):
        raise DataError(f"No test story of {config.target} can be used: mend them, or raise data.test_stories.")
    return (split[place] for place, name in enumerate(wanted) if name not in faults)


@contextmanager
def _alone(version: DataVersion) -> Iterator[None]:
    """The one right to fetch what has this md5. Who comes second waits for as long as the first is at it, and says so."""
    place = runs.root() / "pull" / version.md5
    with ExitStack() as held:
        try:
            held.enter_context(runs.lock(place, wait=0))
        except RunError:
            get_run_logger().info("waiting for another flow that pulls %s (md5 %s)", version.target, version.md5[:8])
            held.enter_context(runs.lock(place, wait=math.inf))
        yield


def _repo() -> "Repo":
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        return Repo(".")
    except NotDvcRepoError:
        raise DataError(f"{Path.cwd()} is no DVC repository: start from the root of a clone of the project.") from None


def _identify(target: str, rev: str | None) -> DataVersion:
    from dvc.exceptions import DvcException, NoOutputInExternalRepoError, OutputNotFoundError
    from dvc.scm import RevError

    repo = _repo()
    if not Path(target).is_file() and rev is None:
        raise DataError(
            f"There is no {target} here: start from the root of a clone, or name the DVC file of your data."
        )
    try:
        if rev is None:
            out = _out(repo, target)
            _refuse_local_changes(repo, out)
            return DataVersion(target, None, _md5(out), str(Path(out.fs_path).absolute()), _remote(repo))
        found = [_md5(_out(repo, target)) for name in repo.brancher(revs=[rev]) if name != "workspace"]
    except (RevError, OutputNotFoundError, NoOutputInExternalRepoError) as error:
        raise DataError(f"Git revision {rev!r} has no {target} to read: {_line(error)}.") from error
    except (DvcException, OSError) as error:
        raise DataError(f"{target} cannot be read: {_line(error)}") from error
    md5 = found[0]
    return DataVersion(target, rev, md5, str(runs.root() / "data" / md5.removesuffix(".dir")), _remote(repo))


def _out(repo: "Repo", target: str) -> "Output":
    return repo.find_outs_by_path(target.removesuffix(".dvc"))[0]


def _md5(out: "Output") -> str:
    value = out.hash_info.value
    if not value:
        raise DataError(f"{out} was never added: run `dvc add {out}`.")
    return str(value).removesuffix(".dir")


def _remote(repo: "Repo") -> str:
    try:
        odb = repo.cloud.get_remote_odb()
    except Exception as error:
        raise DataError(f"No usable DVC remote: {_line(error)} Set one with `dvc remote add -d NAME URL`.") from error
    name = repo.config["core"].get("remote", "remote")
    return f"{name} ({repo.config['remote'].get(name, {}).get('url', odb.path)})"


def _refuse_local_changes(repo: "Repo", out: "Output") -> None:
    if not Path(out.fs_path).exists():
        return

    def status() -> dict[str, str]:
        with repo.lock:
            return dict(out.workspace_status())

    if _when_free(status):
        raise DataError(
            f"{out} differs from what {out.stage.relpath} says: keep your changes with `dvc add {out}`, "
            f"or drop them with `dvc checkout --force {out}`."
        )


def _when_free(act: Callable[[], T]) -> T:
    """What `act` gives, once DVC's lock is free."""
    import time

    from dvc.lock import LockError

    for attempt in range(BUSY):
        try:
            return act()
        except LockError as error:
            if attempt == BUSY - 1:
                raise DataError("Another DVC command holds this repository: wait for it to end.") from error
            time.sleep(2)
    raise AssertionError


def _fetch_workspace(version: DataVersion) -> None:
    from dvc.exceptions import CheckoutError, FileTransferError

    repo = _repo()
    try:
        _when_free(lambda: repo.pull(targets=[version.target]))
    except DataError:
        raise
    except (CheckoutError, FileTransferError) as error:
        raise DataError(_missing(repo, version)) from error
    except Exception as error:  # DVC's, OSError, and what the clients of S3 and others raise
        raise DataError(f"Pulling {version.target} from {version.remote} failed: {_line(error)}") from error


def _kept(version: DataVersion) -> Path:
    """The data in a folder named by content: what happens to the work tree while a run is under way does not reach the run.

    The files are links to those of DVC's cache, which are named by their content too, and which nobody writes into.
    """
    folder = runs.root() / "data" / version.md5
    if not folder.exists():
        temporary = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            _link_cached(version, temporary)
        except FileNotFoundError:  # the work tree alone has it: it was never pushed, and DVC's cache was cleared
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(version.folder, temporary)
            if identify(DataConfig(target=version.target)) != version:
                raise DataError(f"{version.target} became another version while it was pulled: start again.") from None
        temporary.rename(folder)
    return folder


def _link_cached(version: DataVersion, place: Path) -> None:
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    cache = _out(_repo(), version.target).local_cache
    for parts, _, content in Tree.load(cache, HashInfo("md5", f"{version.md5}.dir")):
        goal = place.joinpath(*parts)
        goal.parent.mkdir(parents=True, exist_ok=True)
        _link(cache.oid_to_path(content.value), goal)


def _link(source: str, goal: Path) -> None:
    try:
        os.link(source, goal)
    except OSError:  # another file system
        shutil.copy(source, goal)


def _fetch_revision(version: DataVersion) -> None:
    """Into a folder named by content under `runs/`, so that the work tree stays as it is."""
    from dvc.fs import DVCFileSystem

    folder = Path(version.folder)
    if folder.exists():
        return
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    name = version.target.removesuffix(".dvc")
    try:
        files = DVCFileSystem(url=".", rev=version.rev)
        for path in files.find(name):
            goal = temporary / Path(path).relative_to(name)
            goal.parent.mkdir(parents=True, exist_ok=True)
            files.get_file(path, str(goal))
            wanted = files.info(path)["dvc_info"]["md5"]
            with goal.open("rb") as file:
                found = hashlib.file_digest(file, "md5").hexdigest()
            if found != wanted:
                raise DataError(f"{path} at {version.rev} is corrupt in {version.remote}: `dvc push` it again.")
    except DataError:
        raise
    except Exception as error:  # OSError, KeyError, DataIndexDirError, and what the clients of S3 and others raise
        raise DataError(_missing(_repo(), version)) from error
    temporary.rename(folder)


def _missing(repo: "Repo", version: DataVersion) -> str:
    odb = repo.cloud.get_remote_odb()
    try:
        there = odb.fs.exists(odb.path)
    except Exception as error:
        # Each kind of remote has errors of its own; by this one the step sees that it is worth another try.
        raise DataError(
            f"The DVC remote {version.remote} cannot be asked: {_line(error)}. Start again when it answers, and look at "
            "its address and your credentials when it should."
        ) from ConnectionError(_line(error))
    if not there:
        return (
            f"The DVC remote {version.remote} does not exist: restore it, or name another with "
            "`dvc remote modify NAME url URL`."
        )
    return (
        f"The DVC remote {version.remote} does not hold {version.target} (md5 {version.md5[:8]}) whole: objects are missing "
        "or corrupt. Run `dvc push` where the data is whole, then start again."
    )


def from_hub(name: str, revision: str | None) -> Path:
    """The folder with a data set's parquet shards from the Hub; what was fetched before is not fetched again."""
    from huggingface_hub import snapshot_download

    try:
        fetched = snapshot_download(
            name, repo_type="dataset", revision=revision, allow_patterns=["*.parquet", "**/*.parquet"]
        )
    except Exception as error:  # the Hub's client raises its own errors, requests' and httpx', OSError and ValueError
        raise DataError(
            f"{name!r} is no folder here, and the data set cannot be fetched from the Hub: {_line(error)}"
        ) from error
    return Path(fetched)


def change(target: str, source: str, how: Callable[[Path, Path], dataset.Change], revision: str | None = None) -> str:
    """Change the data by a folder or a data set of the Hub, make a DVC version of it, push it, and send the event.

    Gives the report. Raises DataError, before anything is changed, when the source does not fit or when the data has
    local changes. The DVC file is left for a person to commit.
    """
    with runs.lock(runs.root() / "change" / Path(target).stem):  # or of two at a time the first would be lost
        return _change(target, source, how, revision)


def _change(target: str, source: str, how: Callable[[Path, Path], dataset.Change], revision: str | None) -> str:
    if Path(target).is_file():
        version = identify(DataConfig(target=target))
        if not Path(version.folder).is_dir():
            _fetch_workspace(version)
    repo = _repo()
    folder = Path(target.removesuffix(".dvc"))
    place = Path(source) if Path(source).is_dir() else from_hub(source, revision)
    changed = how(folder, place)
    if changed.nothing:
        return changed.summary()
    return f"{changed.summary()}\n{_publish(repo, target, changed)}"


def _publish(repo: "Repo", target: str, changed: dataset.Change) -> str:
    folder = target.removesuffix(".dvc")
    try:
        repo.add([folder])
        md5 = _md5(_out(repo, target))
        repo.push(targets=[target])
    except Exception as error:  # DVC's, OSError, and what the clients of S3 and others raise
        raise DataError(
            f"{folder} is changed, and its new version could not be made or pushed: {_line(error).rstrip('.')}. Then run "
            f"`dvc add {folder}` and `dvc push`."
        ) from error
    sent = _announce(target, md5, changed.summary())
    return f"data version {md5[:8]} is pushed to {_remote(repo)}{sent}; keep it with: git commit {target}"


def announce(target: str) -> str:
    """Send the event of the data version that is here now, for one that came by git or whose event was lost.

    Raises DataError when no Prefect server is known or it cannot be told.
    """
    md5 = identify(DataConfig(target=target)).md5
    sent = _announce(target, md5, "announced")
    if not sent.endswith(TOLD):
        raise DataError(
            f"Data version {md5[:8]} was not announced{sent or ': no Prefect server is known'}. Run `storyreason up`."
        )
    return f"data version {md5[:8]}{sent}"


def _announce(target: str, md5: str, change: str) -> str:
    """Tell Prefect, where a server is known: a retraining may wait for it. Said in words for the report."""
    if not os.environ.get("PREFECT_API_URL"):
        return ""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.events import Event

    resource = {"prefect.resource.id": f"{RESOURCE}.{target}", "prefect.resource.name": target}
    event = Event.model_validate(
        {"event": NEW_VERSION, "resource": resource, "payload": {"md5": md5, "change": change}}
    )
    try:
        with get_client(sync_client=True) as client:
            client.request("POST", "/events", json=[event.model_dump(mode="json")])
    except httpx.HTTPError as error:
        return f", Prefect could not be told ({_line(error)}): start a retraining by hand"
    return TOLD


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def base_folder(version: DataVersion | None, name: str) -> str:
    """Where the base model is: the pulled folder, a local folder, or the Hub's name as it stands."""
    if version is not None:
        return version.folder
    if name.startswith((".", "/")) and not Path(name).is_dir():
        raise ModelError(
            f"There is no base model folder {name}: name a folder with config.json, or a model on the Hub."
        )
    return str(Path(name).absolute()) if Path(name).is_dir() else name

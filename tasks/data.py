"""Data and base model of a run, pulled through DVC and checked at the border."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from storyreason import dataset, runs
from storyreason.config import DataConfig
from storyreason.errors import DataError, ModelError

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo

VERSION = 1  # raise it when what this step makes changes
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
    retry_condition_fn=lambda t, r, s: _outside(s),
)
def pull(version: DataVersion, check: bool = True) -> dict[str, Any]:
    """Fetch one data version, verify every file's hash, check every example, and show the data card."""
    folder = runs.work_folder("pull", version.fingerprint)
    if manifest := runs.read_manifest(folder):
        return manifest
    logger = get_run_logger()
    logger.info("pulling %s (md5 %s) from %s", version.target, version.md5[:8], version.remote)
    (_fetch_workspace if version.rev is None else _fetch_revision)(version)
    card = ""
    if check:
        report = dataset.check(Path(version.folder))
        card = report.markdown()
        logger.info("%s", report.summary())
        create_markdown_artifact(card, key="data-card", description=f"data {version.md5[:8]}")
    return runs.write_manifest(folder, files=(version.folder,), md5=version.md5, rev=version.rev, card=card)


def _outside(state: Any) -> bool:
    """Retry what the network or a lock caused, never what the input caused."""
    try:
        state.result()
    except DataError as error:
        return isinstance(error.__cause__, (OSError, TimeoutError))
    except Exception:
        return True
    return False


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
    with repo.lock:
        changed = out.workspace_status()
    if changed:
        raise DataError(
            f"{out} differs from what {out.stage.relpath} says: keep your changes with `dvc add {out}`, "
            f"or drop them with `dvc checkout --force {out}`."
        )


def _fetch_workspace(version: DataVersion) -> None:
    import time

    from dvc.exceptions import CheckoutError, DvcException
    from dvc.lock import LockError

    repo = _repo()
    for attempt in range(BUSY):
        try:
            repo.pull(targets=[version.target])
            break
        except LockError as error:
            if attempt == BUSY - 1:
                raise DataError("Another DVC command holds this repository: wait for it to end.") from error
            time.sleep(2)
        except CheckoutError as error:
            raise DataError(_missing(repo, version)) from error
        except (DvcException, OSError) as error:
            raise DataError(f"Pulling {version.target} from {version.remote} failed: {_line(error)}") from error


def _fetch_revision(version: DataVersion) -> None:
    """Into a folder named by content under `runs/`, so that the work tree stays as it is."""
    import shutil

    from dvc.fs import DVCFileSystem
    from dvc_data.index.index import DataIndexDirError

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
    except (OSError, KeyError, DataIndexDirError) as error:
        raise DataError(_missing(_repo(), version)) from error
    temporary.rename(folder)


def _missing(repo: "Repo", version: DataVersion) -> str:
    odb = repo.cloud.get_remote_odb()
    if not odb.fs.exists(odb.path):
        return (
            f"The DVC remote {version.remote} does not exist: restore it, or name another with "
            "`dvc remote modify sample url URL`."
        )
    return (
        f"The DVC remote {version.remote} does not hold {version.target} (md5 {version.md5[:8]}) whole: objects are missing "
        "or corrupt. Run `dvc push` where the data is whole, then start again."
    )


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

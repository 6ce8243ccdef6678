"""Versions of folders under DVC: identify and fetch them. `releasing` makes new ones."""

import contextlib
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from storyreason import runs
from storyreason.errors import DataError, without_password
from tasks import compat, remotes
from tasks.faults import one_line

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo

T = TypeVar("T")
NAMED = 5
"""How many changed files a message names."""
BUSY = 8  # tries, 2 s apart: another pull holds DVC's lock, or a killed one has just left it behind


@dataclass(frozen=True)
class DataVersion:
    """One version of a folder under DVC, pulled or not. `md5` identifies its content."""

    target: str
    rev: str | None
    md5: str
    folder: str
    """Where its files are once pulled (absolute)."""
    remote: str


def identify(target: str, rev: str | None) -> DataVersion:
    """The version in a DVC file, here or at a Git revision. Raises DataError when pulling would overwrite local changes.

    A work tree that is another version as it was published has no local changes: `fetch` replaces it.
    """
    from dvc.exceptions import DvcException, NoOutputInExternalRepoError, OutputNotFoundError
    from dvc.scm import RevError

    repo = repository()
    if not Path(target).is_file() and rev is None:
        raise DataError(
            f"There is no {target} here: start from the root of a clone, or name the DVC file of your data."
        )
    try:
        if rev is None:
            out = _out(repo, target)
            md5 = md5_of(out)
            _refuse_local_changes(repo, out)
            return DataVersion(target, None, md5, str(Path(out.fs_path).absolute()), remote_of(repo))
        md5 = next(md5_of(_out(repo, target)) for name in repo.brancher(revs=[rev]) if name != "workspace")
    except (RevError, OutputNotFoundError, NoOutputInExternalRepoError) as error:
        if rev is None:
            raise DataError(
                f"{target} names no folder {target.removesuffix('.dvc')}: take it from Git again."
            ) from error
        raise DataError(f"Git revision {rev!r} has no {target} to read: {one_line(error)}.") from error
    except (DvcException, OSError, ValueError) as error:
        raise DataError(f"{target} cannot be read: {one_line(error)}") from error
    return DataVersion(target, rev, md5, str(runs.root() / "data" / md5.removesuffix(".dir")), remote_of(repo))


def fetch(version: DataVersion) -> None:
    """Fetch the files into the version's folder and verify their hashes. Raises DataError, which says what is missing."""
    (_fetch_workspace if version.rev is None else _fetch_revision)(version)


def keep(version: DataVersion) -> Path:
    """The files in a folder named by their content, so that later changes of the work tree do not affect a run.

    They are hard links into DVC's cache, whose files are named by their content and never written again.
    """
    folder = runs.root() / "data" / version.md5
    if not folder.exists():
        temporary = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            _link_cached(version, temporary)
        except FileNotFoundError:  # only the work tree has it: it was never pushed, and DVC's cache was cleared
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(version.folder, temporary)
            if identify(version.target, None) != version:
                raise DataError(
                    f"{version.target} changed to another version while it was pulled: start again."
                ) from None
        temporary.rename(folder)
    return folder


def is_cached(version: DataVersion) -> bool:
    """Whether DVC's cache of this checkout holds all of a version, so that no remote is needed."""
    cache = _out(repository(), version.target).local_cache
    try:
        return all(Path(content).exists() for _, content in compat.cached_files(cache, version.md5))
    except FileNotFoundError:
        return False


def read(version: DataVersion, name: str) -> bytes | None:
    """The content of one file of a version, from DVC's cache or from the remote; None if the version has no such file.

    Nothing else of it is fetched. Raises DataError.
    """
    repo = repository()
    try:
        for store in remotes.stores(repo, version.md5):
            with contextlib.suppress(FileNotFoundError):
                content = dict(compat.listed_files(store, version.md5)).get((name,))
                if content is None:
                    return None
                with store.fs.open(store.oid_to_path(content), "rb") as file:
                    found: bytes = file.read()
                if hashlib.md5(found, usedforsecurity=False).hexdigest() == content:
                    return found
    except Exception as error:  # DVC's, OSError, and what the clients of S3 and others raise
        raise DataError(_missing(repo, version)) from error
    raise DataError(_missing(repo, version))


def check_remote(version: DataVersion) -> None:
    """Raises DataError when no DVC remote that can be reached has all objects of a version. Fetches nothing."""
    repo = repository()
    if not remotes.holds(repo, remotes.source(repo, version.md5), version.md5):
        raise DataError(_missing(repo, version))


def repository() -> "Repo":
    """The DVC repository of the working directory. Raises DataError when there is none, or it cannot be opened."""
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo
    from dvc.scm import SCMError

    try:
        try:
            return Repo(".")
        except SCMError:  # an image or an archive has the files of a commit without Git
            return Repo(".", config={"core": {"no_scm": True}})
    except NotDvcRepoError:
        raise DataError(
            f"{Path.cwd()} is not a DVC repository: start in a clone of the project, or name one with --home."
        ) from None
    except (DvcException, OSError, ValueError) as error:
        raise DataError(
            f"The DVC repository {Path.cwd()} cannot be opened ({one_line(error)}): mend it; `git diff` shows what changed."
        ) from error


def _out(repo: "Repo", target: str) -> "Output":
    return repo.find_outs_by_path(target.removesuffix(".dvc"))[0]


def md5_of(out: "Output") -> str:
    """The MD5 of the version that a DVC file names. Raises DataError when it names none."""
    value = out.hash_info.value
    if not value:
        raise DataError(f"{out} was never added: run `dvc add {out}`.")
    return str(value).removesuffix(".dir")


def remote_of(repo: "Repo") -> str:
    """Name and address of the remote. Raises DataError when there is none."""
    try:
        odb = repo.cloud.get_remote_odb()
    except Exception as error:
        raise DataError(
            f"No usable DVC remote: {one_line(error)} Set one with `dvc remote add -d NAME URL`."
        ) from error
    name = repo.config["core"].get("remote", "remote")
    return without_password(f"{name} ({repo.config['remote'].get(name, {}).get('url', odb.path)})")


def is_current(version: DataVersion) -> bool:
    """Whether the work tree holds exactly this version."""
    repo = repository()
    out = _out(repo, version.target)
    return Path(out.fs_path).exists() and not _when_free(lambda: _status(repo, out))


def _status(repo: "Repo", out: "Output") -> dict[str, str]:
    with repo.lock:
        return dict(out.workspace_status())


def _refuse_local_changes(repo: "Repo", out: "Output") -> None:
    """Raises DataError, which names the changed files, unless the work tree can be replaced without losing anything."""
    if not Path(out.fs_path).exists() or not _when_free(lambda: _status(repo, out)) or _is_another_version(repo, out):
        return
    raise DataError(
        f"{out} differs from the version in {out.stage.relpath}{_differences(out)}: keep your changes with `dvc add {out}`, "
        f"or drop them with `dvc checkout --force {out}`."
    )


def _is_another_version(repo: "Repo", out: "Output") -> bool:
    """Whether the work tree is, file for file, a version that DVC's cache holds or that the DVC file has named in Git.

    So it is after a `git pull` that brought a newer version, for example.
    """
    value = compat.tree(out, out.fs_path).hash_info.value
    return compat.is_cached(out.local_cache, value) or _was_committed(repo, out, value)


def _was_committed(repo: "Repo", out: "Output", value: str) -> bool:
    command = ["git", "log", "-1", "--all", "--format=%H", f"-S{value}", "--", out.stage.path]
    try:
        found = subprocess.run(command, cwd=repo.root_dir, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no Git here
        return False
    return bool(found.stdout.strip())


def _differences(out: "Output") -> str:
    """` (changed: a.parquet; new: b.parquet)`; empty when the cache does not know the version's files."""
    before = compat.names(out.local_cache, out.hash_info.value)
    if before is None:
        return ""
    now = dict(compat.entries(compat.tree(out, out.fs_path)))
    kinds = {
        "changed": [name for name, content in now.items() if before.get(name, content) != content],
        "new": [name for name in now if name not in before],
        "missing": [name for name in before if name not in now],
    }
    told = [
        f"{kind}: {', '.join(names[:NAMED])}{', ...' * (len(names) > NAMED)}" for kind, names in kinds.items() if names
    ]
    return f" ({'; '.join(told)})" if told else ""


def _when_free(act: Callable[[], T]) -> T:
    """The result of `act`, once DVC's lock is free."""
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

    repo = repository()
    try:
        out = _out(repo, version.target)
        # DVC would ask before it replaces an older version that the cache does not hold.
        replace = Path(out.fs_path).exists() and _is_another_version(repo, out)
        remote = None if is_cached(version) else remotes.source(repo, version.md5)
        _when_free(lambda: repo.fetch(targets=[version.target], remote=remote))
        if not compat.is_cached(out.local_cache, out.hash_info.value) and not is_current(version):
            raise DataError(_missing(repo, version))  # a checkout would remove the older version first
        _when_free(lambda: repo.checkout(targets=[version.target], force=replace))
    except DataError:
        raise
    except (CheckoutError, FileTransferError) as error:
        raise DataError(_missing(repo, version)) from error
    except Exception as error:  # DVC's, OSError, and what the clients of S3 and others raise
        raise DataError(f"Pulling {version.target} from {version.remote} failed: {one_line(error)}") from error


def _fetch_revision(version: DataVersion) -> None:
    """Fetch into a folder named by content under `runs/`; the work tree stays as it is."""
    from dvc.fs import DVCFileSystem

    folder = Path(version.folder)
    if folder.exists():
        return
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    name = version.target.removesuffix(".dvc")
    try:
        source = remotes.source(repo := repository(), version.md5)
        other = {"core": {"remote": source}, "remote": dict(repo.config["remote"])} if source else None
        files = DVCFileSystem(url=".", rev=version.rev, config=other)
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
        raise DataError(_missing(repository(), version)) from error
    temporary.rename(folder)


def _link_cached(version: DataVersion, place: Path) -> None:
    cache = _out(repository(), version.target).local_cache
    for parts, content in compat.cached_files(cache, version.md5):
        goal = place.joinpath(*parts)
        goal.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(content, goal)
        except OSError:  # another file system
            shutil.copy(content, goal)


def _missing(repo: "Repo", version: DataVersion) -> str:
    odb = repo.cloud.get_remote_odb()
    try:
        there = odb.fs.exists(odb.path)
    except Exception as error:
        # Each kind of remote has its own errors; by this cause the step sees that a retry may help.
        raise DataError(
            f"The DVC remote {version.remote} cannot be reached: {one_line(error)}. Start again when it answers; if it should, "
            "check its address and your credentials."
        ) from ConnectionError(one_line(error))
    if not there:
        return (
            f"The DVC remote {version.remote} does not exist: restore it, or name another with `dvc remote modify NAME url URL`; "
            "if it should be there, look whether its server answers."
        )
    return (
        f"The DVC remote {version.remote} does not hold {version.target} (md5 {version.md5[:8]}) whole: objects are missing "
        "or corrupt. Run `dvc push` where the data is whole, then start again."
    )

"""The bytes of versions for other machines, in a store named by their content: DVC's object store, on files, S3 and the like.

DVC's, because it is here for the data already: it hashes, links, transfers in parallel and writes an object whole or not at
all, with the credentials that the data's remote has. A version's files are objects named by their MD5, and a list of them is
one more, which is written last; so files that versions share, such as their base, are stored once. MLflow keeps the name of
the list with the version.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from storyreason import home
from storyreason.errors import RegistryError, StoryReasonError, without_password
from tasks import compat, settings
from tasks.faults import one_line

Say = Callable[[str], None]
EVERY = 15.0
"""Seconds between two lines about a transfer."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """A folder in the store: the name of the list of its files, and their size."""

    name: str
    bytes: int


def address() -> str:
    """Where the store is, as messages show it; empty if there is none."""
    return without_password(settings.read().artifacts)


def store() -> Any | None:
    """DVC's object store that STORYREASON_ARTIFACTS names, or None. Raises RegistryError for one that it cannot use."""
    url = settings.read().artifacts
    if not url:
        return None
    try:
        return compat.store(url if "://" in url else str(home.folder() / url))
    except Exception as error:  # DVC's own, and ImportError for a kind of store that is not installed
        raise RegistryError(f"STORYREASON_ARTIFACTS={address()} cannot be used: {one_line(error)}") from error


def put(files: Mapping[str, Path], say: Say = log.info) -> Stored:
    """Store files by their paths in a folder: each is sent while the next are hashed, unless the store has it already.

    Raises RegistryError.
    """
    odb = _store()
    total = sum(path.stat().st_size for path in files.values())
    hashes: dict[str, str] = {}
    sendings: list[Future[None]] = []
    with _understood("stored"), _told("storing", total, say) as told, ThreadPoolExecutor(odb.fs.jobs) as senders:
        try:
            for (name, path), one in zip(files.items(), _md5s(files.values()), strict=True):
                size = path.stat().st_size
                if one in hashes.values() or _is_whole(odb, one, size):
                    told.total -= size
                else:
                    sendings.append(senders.submit(compat.add, odb, str(path), one, told.callback))
                hashes[name] = one
                _raise_what_failed(sendings)
            wait(sendings, return_when=FIRST_EXCEPTION)
            _raise_what_failed(sendings)
        except BaseException:
            senders.shutdown(wait=False, cancel_futures=True)
            raise
        listed = compat.listing(hashes)
        compat.add_list(odb, listed)
    return Stored(str(listed.oid), total)


def _raise_what_failed(sendings: Iterable["Future[None]"]) -> None:
    for sending in sendings:
        if sending.done():
            sending.result()


def _md5s(paths: Iterable[Path]) -> Iterator[str]:
    """The MD5 of each of these files in turn. All cores hash: that of gigabytes is half of a transfer."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(_md5, paths)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def is_whole(stored: Stored) -> bool:
    """Whether the store holds all files of a folder. Raises RegistryError when it is unreachable."""
    odb = _store()
    with _understood("looked for"):
        hashes = compat.listed(odb, stored.name)
        return hashes is not None and all(odb.exists(one) for one in hashes.values())


def names(stored: Stored) -> dict[str, str]:
    """The MD5 of each file of a folder, by its name. Raises RegistryError when the store is unreachable or lacks the list."""
    odb = _store()
    with _understood("looked for"):
        return _listed(odb, stored)


def size(md5: str) -> int:
    """The bytes of a file in the store. Raises RegistryError."""
    odb = _store()
    with _understood("looked for"):
        return int(odb.fs.size(odb.oid_to_path(md5)))


def get_file(md5: str, path: Path) -> None:
    """Fetch one file, and verify it. Raises RegistryError, as `get` does."""
    with _understood("fetched"):
        _fetch(_store(), {path: md5}, compat.counting(lambda _: None))


def get(stored: Stored, folder: Path, say: Say = log.info) -> None:
    """Fetch the files of a folder, by links where the store is on the same file system, and verify each.

    Files that are there already are kept if they are right, so a killed fetch goes on; all others in the folder are removed.
    Raises RegistryError, which names a file that is missing in the store or differs.
    """
    odb = _store()
    with _understood("fetched"):
        hashes = _listed(odb, stored)
        if outside := [name for name in hashes if not (folder / name).resolve().is_relative_to(folder.resolve())]:
            raise RegistryError(
                f"The list {stored.name} in {address()} names {outside[0]}, outside of the version: remove it."
            )
        wanted = {folder / name: one for name, one in hashes.items()}
        for path in [path for path in folder.rglob("*") if path.is_file() and path not in wanted]:
            path.unlink()  # what a killed fetch left
        missing = _not_right(wanted)
        with _told("fetching", stored.bytes, say) as told:
            _fetch(odb, missing, told.callback)


def _listed(odb: Any, stored: Stored) -> dict[str, str]:
    hashes = compat.listed(odb, stored.name)
    if hashes is None:
        raise _not_whole(f"there is no list {stored.name}")
    return hashes


def _fetch(odb: Any, wanted: Mapping[Path, str], told: Any) -> None:
    """Fetch these files, and verify each: one that is not right is removed, and named in a RegistryError."""
    try:
        compat.fetch(odb, list(wanted.values()), [str(path) for path in wanted], told)
    except FileNotFoundError as error:
        raise _not_whole(one_line(error)) from None
    for path, one in _not_right(wanted).items():
        raise RegistryError(
            f"{path.name} from {address()} is not what was stored there (its MD5 is not {one}): remove "
            f"{odb.oid_to_path(one)} there, and run `storyreason deploy` where it was registered: that stores it again."
        )


def _not_right(wanted: Mapping[Path, str]) -> dict[Path, str]:
    """Which of these files are missing or have another MD5. The latter are removed."""
    there = [path for path in wanted if path.exists()]
    found = dict(zip(there, _md5s(there), strict=True))
    wrong = {path: md5 for path, md5 in wanted.items() if found.get(path) != md5}
    for path in wrong:
        path.unlink(missing_ok=True)
    return wrong


def unreferenced(kept: set[str], older: float) -> dict[str, int]:
    """The paths in the store that no list of `kept` (names of lists) needs, with their sizes; untouched for `older` seconds.

    Raises RegistryError when the store is unreachable.
    """
    odb = _store()
    with _understood("looked through"):
        needed = set(kept)
        for name in kept:
            needed.update((compat.listed(odb, name) or {}).values())
        before = time.time() - older
        found = compat.objects_in(odb)
        return {path: size for path, (one, size, made) in found.items() if one not in needed and made < before}


def remove(path: str) -> None:
    """Remove a path that `unreferenced` gave."""
    with _understood("removed"):
        _store().fs.remove(path)


def _store() -> Any:
    found = store()
    if found is None:
        raise RegistryError(
            "No store of versions is set: set STORYREASON_ARTIFACTS to the one of the machine that registered the version."
        )
    return found


def _is_whole(odb: Any, one: str, size: int) -> bool:
    """Whether the store has an object; one of another size is removed."""
    path = odb.oid_to_path(one)
    if not odb.fs.exists(path):
        return False
    if odb.fs.size(path) == size:
        return True
    odb.fs.remove(path)
    return False


@contextmanager
def _understood(done: str) -> Iterator[None]:
    """Turn what DVC and the clients of S3 and others raise into one sentence; its cause says whether a retry may help."""
    try:
        yield
    except StoryReasonError:
        raise
    except Exception as error:
        raise RegistryError(
            f"The version could not be {done} in {address()}: {one_line(error)}. Start again when it answers; if it should, "
            "check STORYREASON_ARTIFACTS and your credentials."
        ) from ConnectionError(one_line(error))


def _not_whole(why: str) -> RegistryError:
    return RegistryError(
        f"The version is not whole in {address()} ({why}): run `storyreason deploy` where it was registered, which stores it "
        "again, or train again."
    )


@dataclass
class _Transfer:
    """How far a transfer is, and what it is told through: fsspec's callback."""

    total: int
    callback: Any = None


@contextmanager
def _told(what: str, total: int, say: Say) -> Iterator[_Transfer]:
    """A transfer that says how far it is, at most once in 15 s, and how long it took."""
    started = said = time.monotonic()
    done = 0

    def more(count: int) -> None:
        nonlocal done, said
        done += count
        if time.monotonic() - said >= EVERY:
            said = time.monotonic()
            say(f"{what}: {done / 1e9:.2f} of {transfer.total / 1e9:.2f} GB")

    transfer = _Transfer(total, compat.counting(more))
    yield transfer
    if transfer.total:
        say(f"{what} {transfer.total / 1e6:,.1f} MB took {time.monotonic() - started:.1f} s ({address()})")

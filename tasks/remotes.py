"""Which of DVC's remotes has a version, and where its files can be read without fetching it."""

from typing import TYPE_CHECKING, Any

from tasks import compat

if TYPE_CHECKING:
    from dvc.repo import Repo


def source(repo: "Repo", md5: str) -> str | None:
    """The remote that has all of a version: the default one (None), unless it is new and what came with a clone is in another."""
    return next((name for name in (None, *repo.config["remote"]) if holds(repo, name, md5)), None)


def holds(repo: "Repo", remote: str | None, md5: str) -> bool:
    """Whether a remote can be reached and has all objects of a version."""
    try:
        odb = repo.cloud.get_remote_odb(remote)
        wanted = {content for _, content in compat.listed_files(odb, md5)}
        return wanted <= set(odb.oids_exist(list(wanted)))
    except Exception:  # DVC's, OSError, and what the clients of S3 and others raise: who needs it tells them apart
        return False


def stores(repo: "Repo", md5: str) -> tuple[Any, Any]:
    """The stores that may have the files of a version: DVC's cache, and the remote to fetch it from."""
    return repo.cache.local, repo.cloud.get_remote_odb(source(repo, md5))

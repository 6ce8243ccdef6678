"""A new data version: cached and pushed first, then named by the DVC file, and only then put into the work tree.

Whatever ends this early leaves the version of before in place: until the DVC file is renamed nothing that it names has
changed, and afterwards the work tree is a known older version, which `versioning.fetch` brings up to date.
"""

import os
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storyreason import runs
from storyreason.dataset import changing
from storyreason.errors import DataError
from tasks import compat, versioning
from tasks.faults import one_line
from tasks.versioning import DataVersion

if TYPE_CHECKING:
    from dvc.repo import Repo


def publish(target: str, new: Path) -> DataVersion:
    """Make the content of the folder `new` the next version of a DVC file, and push it. The work tree stays as it is.

    Raises DataError, and nothing has changed.
    """
    repo = versioning.repository()
    remote = versioning.remote_of(repo)
    try:
        with repo.lock:
            stage = _stage(repo, target)
            out = stage.outs[0]
            compat.save_to_cache(out, str(new.absolute()))
            if failed := repo.cloud.push(compat.objects(out.obj)).failed:
                raise OSError(f"{len(failed)} files could not be uploaded")
            out.ignore()
            runs.write_text(Path(target), compat.dvc_file(stage))
    except Exception as error:  # DVC's, OSError, and what the clients of S3 and others raise
        raise DataError(
            f"The new version of {target} could not be made and pushed to {remote}, so nothing was changed: "
            f"{one_line(error).rstrip('.')}. Start again when that is mended."
        ) from error
    return DataVersion(target, None, versioning.md5_of(out), str(Path(out.fs_path).absolute()), remote)


def _stage(repo: "Repo", target: str) -> Any:
    if Path(target).is_file():
        return repo.find_outs_by_path(target.removesuffix(".dvc"))[0].stage
    return repo.stage.create(single_stage=True, validate=False, fname=target, outs=[target.removesuffix(".dvc")])


def sweep(folder: Path) -> None:
    """Remove what a killed change left beside a data folder."""
    for path in folder.absolute().parent.glob(f"{changing.beside(folder)}*"):
        shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(folder.with_name(f".{folder.name}.old"), ignore_errors=True)


def to_commit(version: DataVersion, first: bool) -> str:
    """The commands that make a version complete for others: all that belongs into one commit.

    A remote inside the repository belongs to it; any other remote has the version already. `first`: DVC has just made the
    DVC file, and let Git ignore the folder. Empty without Git.
    """
    repo = versioning.repository()
    root, odb = getattr(repo.scm, "root_dir", None), repo.cloud.get_remote_odb()
    if root is None:  # an image or an archive
        return ""
    ignored = Path(version.folder).with_name(".gitignore")
    places = [version.target, *([os.path.relpath(ignored)] if first and ignored.is_file() else [])]
    if odb.fs.protocol == "local" and Path(odb.path).resolve().is_relative_to(Path(root).resolve()):
        places.append(os.path.relpath(odb.path.removesuffix("/files/md5")))
    return f"git add {shlex.join(places)} && git commit -m 'Data version {version.md5[:8]}'"

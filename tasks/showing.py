"""The files of registered versions as MLflow's artifacts: its pages and its clients list and download them.

MLflow asks this class for each address that begins with `storyreason:`, by an entry point of the checkout's package (setup.py).
The address of a version is `storyreason:/versions/models/m-…/artifacts`. It names MLflow's model and nothing else; where the
files are now, on this machine or in the store, is looked up. So MLflow keeps no copy of them, and no path.
"""

import re
import shutil
from collections.abc import Callable, Mapping
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_STATE, RESOURCE_DOES_NOT_EXIST
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from storyreason.errors import StoryReasonError

MODEL = re.compile(r"storyreason:/+versions/models/([^/]+)/artifacts/?")
T = TypeVar("T")


def _as_mlflow_says(act: Callable[..., T]) -> Callable[..., T]:
    """MLflow's server answers its own exceptions with their sentence, and others with a page that says nothing."""

    @wraps(act)
    def acted(*given: Any, **named: Any) -> T:
        try:
            return act(*given, **named)
        except StoryReasonError as error:
            raise MlflowException(str(error), INVALID_STATE) from error

    return acted


class VersionFiles(ArtifactRepository):
    """The files of one version: `model/config.json` and so on, and of an adapter's base `model/base/config.json`."""

    @_as_mlflow_says
    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """The folders and files directly under a path; none if it is a file."""
        start = f"{path.rstrip('/')}/" if path else ""
        below = {name.removeprefix(start): found for name, found in self._files.items() if name.startswith(start)}
        folders = {name.partition("/")[0] for name in below if "/" in name}
        listed = [FileInfo(start + name, True, None) for name in sorted(folders)]
        return listed + [
            FileInfo(start + name, False, _size(found)) for name, found in sorted(below.items()) if "/" not in name
        ]

    @_as_mlflow_says
    def get_local_path(self, artifact_path: str) -> str | None:
        """Where a file is on this machine, which MLflow's server then sends as it is; None if it is in the store."""
        found = self._found(artifact_path)
        return str(found) if isinstance(found, Path) else None

    @_as_mlflow_says
    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        from tasks import artifacts

        found = self._found(remote_file_path)
        if isinstance(found, Path):
            shutil.copyfile(found, local_path)
        else:
            artifacts.get_file(found, Path(local_path))

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> NoReturn:
        """Refused: a version is what was registered."""
        raise MlflowException(
            f"{self.artifact_uri} is a registered version: nothing can be added to it.", INVALID_STATE
        )

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> NoReturn:
        """Refused, too."""
        self.log_artifact(local_dir, artifact_path)

    @cached_property
    def _files(self) -> Mapping[str, Path | str]:
        """By name, each file on this machine or its MD5 in the store; empty where there is neither."""
        # Their imports take a second, and every process that imports MLflow imports this file.
        from tasks import cache, registry

        named = MODEL.fullmatch(self.artifact_uri)
        version = registry.of_model(named[1]) if named else None
        return cache.files(Path(version.folder), version.stored, version.base) if version else {}

    def _found(self, name: str) -> Path | str:
        if name not in self._files:
            raise MlflowException(f"There is no {name} in {self.artifact_uri}.", RESOURCE_DOES_NOT_EXIST)
        return self._files[name]


def _size(found: Path | str) -> int:
    from tasks import artifacts

    return found.stat().st_size if isinstance(found, Path) else artifacts.size(found)

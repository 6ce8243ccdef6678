"""The names of Prefect, MLflow and DVC that are not part of their interfaces and that this project uses or replaces.

`storyreason/compat` has those of the library's own dependencies, and says what `BORROWED` is for.
"""

import functools
from collections.abc import Iterator
from typing import Any

from storyreason.compat import Borrowed

PREFECT = "Read how a runner looks for cancelled runs and ends on SIGTERM, then run tests/flows/test_deployments.py."
DVC = "Read how its cache lists the files of a folder, then run tests/tasks/test_versioning.py."

BORROWED = (
    Borrowed("prefect", "3.7.7", "prefect._internal.observers", "critical_service_loop",
             "workload interval memory consecutive backoff printer run_once jitter_range", PREFECT),
    Borrowed("prefect", "3.7.7", "prefect.runner:Runner", "handle_sigterm", "self args kwargs", PREFECT),
    Borrowed("mlflow", "3.17.2", "mlflow.utils.mlflow_tags", "MLFLOW_LOGGED_ARTIFACTS", None,
             "MLflow's page finds the tables of a run by this tag; compare with MlflowClient.log_table."),
    Borrowed("dvc-data", "3.18.3", "dvc_data.hashfile.tree:Tree", "load", "odb hash_info hash_name", DVC),
)  # fmt: skip

LOOKS = 10_000
"""How many looks for cancelled runs may fail, one in ten seconds: more than a day."""


def let_cancel_after_an_outage() -> None:
    """Have Prefect's runner look for cancelled runs again when its server is back.

    Otherwise it gives up for good after three looks that fail, about 20 seconds: nobody could cancel a run from then on.
    No setting changes that.
    """
    from prefect._internal import observers

    patient = functools.partial(observers.critical_service_loop, consecutive=LOOKS)
    observers.critical_service_loop = patient


def logged_tables_tag() -> str:
    """The tag of an MLflow run that lists its tables."""
    from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

    return str(MLFLOW_LOGGED_ARTIFACTS)


def cached_files(cache: Any, md5: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """The files of a folder in DVC's cache: path parts in the folder, and where the cache has the content."""
    for parts, content in listed_files(cache, md5):
        yield parts, cache.oid_to_path(content)


def listed_files(store: Any, md5: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """The files of a folder in DVC's cache or in a remote: path parts in the folder, and the MD5 of the content."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    for parts, _, content in Tree.load(store, HashInfo("md5", f"{md5}.dir")):
        yield parts, str(content.value)

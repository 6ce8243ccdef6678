"""The names of Prefect, MLflow and DVC that are not part of their interfaces and that this project uses or replaces.

`storyreason/compat` has those of the library's own dependencies, and says what `BORROWED` is for.
"""

import asyncio
import functools
import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from storyreason.compat import Borrowed

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

PREFECT = "Read how a runner looks for cancelled runs and ends on SIGTERM, then run tests/flows/test_deployments.py."
DVC = "Read how its cache lists the files of a folder, then run tests/tasks/test_versioning.py."
DVC_ADD = "Read how DVC's `Output.add` makes a version of a folder, then run tests/tasks/test_releasing.py."
DVC_STORE = "Read how DVC names, adds and fetches objects, then run tests/tasks/test_artifacts.py."

BORROWED = (
    Borrowed("prefect", "3.7.7", "prefect._internal.observers", "critical_service_loop",
             "workload interval memory consecutive backoff printer run_once jitter_range", PREFECT),
    Borrowed("prefect", "3.7.7", "prefect.runner:Runner", "handle_sigterm", "self args kwargs", PREFECT),
    Borrowed("prefect", "3.7.7", "prefect.deployments.runner:RunnerDeployment", "_parameter_openapi_schema", None,
             "Read how a deployment sends the schema of its form, then run tests/system/test_deployments.py."),
    Borrowed("prefect", "3.7.7", "prefect.cli.deploy._storage", "_PullStepStorage", None,
             "Read how `prefect deploy` sends pull steps, then run tests/system/test_work_pool.py."),
    Borrowed("prefect", "3.7.7", "prefect.server.events.models.automations", "run_coro_as_sync", None,
             "Read what follows the commit of an automation on SQLite, then run tests/tasks/test_compat.py without the patch."),
    Borrowed("mlflow", "3.17.2", "mlflow.utils.mlflow_tags", "MLFLOW_LOGGED_ARTIFACTS", None,
             "MLflow's page finds the tables of a run by this tag; compare with MlflowClient.log_table."),
    Borrowed("dvc-data", "3.18.3", "dvc_data.hashfile.tree:Tree", "load", "odb hash_info hash_name", DVC),
    Borrowed("dvc-data", "3.18.3", "dvc_data.hashfile.build", "build",
             "odb path fs name upload dry_run ignore callback checksum_jobs kwargs", DVC_ADD),
    Borrowed("dvc-data", "3.18.3", "dvc_data.hashfile.transfer", "transfer",
             "src dest obj_ids jobs verify hardlink validate_status src_index dest_index cache_odb shallow callback", DVC_ADD),
    Borrowed("dvc-data", "3.18.3", "dvc_data.hashfile.tree:Tree", "digest", "self with_meta name", DVC_STORE),
    Borrowed("dvc-data", "3.18.3", "dvc_data.hashfile.db", "get_odb", "fs path config", DVC_STORE),
    Borrowed("dvc-data", "3.18.3", "dvc_data.hashfile.hash", "hash_file", "path fs name state callback info", DVC_STORE),
    Borrowed("dvc-objects", "5.2.0", "dvc_objects.fs.generic", "transfer",
             "from_fs from_path to_fs to_path hardlink links callback batch_size on_error", DVC_STORE),
    Borrowed("dvc", "3.67.1", "dvc.fs", "get_cloud_fs", "repo_config kwargs", DVC_STORE),
    Borrowed("dvc", "3.67.1", "dvc.stage.serialize", "to_single_stage_file", "stage kwargs", DVC_ADD),
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


def let_automations_change() -> None:
    """Keep Prefect's server on SQLite from a deadlock when an automation is changed (PrefectHQ/prefect#23055).

    After the commit its event loop waits for a thread that waits for a lock, which a task of that loop may hold: the server
    never answers again. Here the loop does that work itself, as its next task.
    """
    from prefect.server.events.models import automations

    begun = set[asyncio.Task[Any]]()  # a loop alone does not keep its tasks

    def soon(work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        begun.add(task)
        task.add_done_callback(begun.discard)

    automations.run_coro_as_sync = soon  # type: ignore[assignment]


def form_of(deployment: "RunnerDeployment") -> dict[str, Any]:
    """The fields of a deployment's form, as JSON schemas by parameter; changes to them are sent to the server."""
    return deployment._parameter_openapi_schema.properties


def refuse_unknown_parameters(deployment: "RunnerDeployment") -> None:
    """Have Prefect's server refuse parameters that the flow does not have; otherwise it ignores them."""
    from prefect.utilities.callables import ParameterSchema
    from pydantic import create_model

    strict = create_model("Strict", __base__=ParameterSchema, additionalProperties=(bool, False))
    given = deployment._parameter_openapi_schema.model_dump()
    deployment._parameter_openapi_schema = strict(**given, additionalProperties=False)


def run_in(deployment: "RunnerDeployment", variable: str) -> None:
    """Have a worker run a deployment's runs in the folder that an environment variable names on its machine.

    Prefect's own storage for a local folder would name the folder of the machine that registers the deployment.
    """
    from prefect.cli.deploy._storage import _PullStepStorage

    step = {"prefect.deployments.steps.set_working_directory": {"directory": f"{{{{ ${variable} }}}}"}}
    deployment.storage = _PullStepStorage([step])


GREEK = """
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi chi psi omega
"""


def made_up(name: str) -> bool:
    """Whether Prefect made up the name of a run: `sparkling-otter` (its server) or `beta2-leonis-b` (the form in its UI)."""
    from coolname import data

    first, *others = name.split("-")
    if first.rstrip("0123456789") in GREEK.split() and others:
        return True
    parts = cast("dict[str, dict[str, Any]]", data.config)
    words = {word for part in parts.values() for word in part.get("words", ())}
    return len(others) == 1 and {first, *others} <= words


def logged_tables_tag() -> str:
    """The tag of an MLflow run that lists its tables."""
    from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

    return str(MLFLOW_LOGGED_ARTIFACTS)


def tree(out: Any, folder: str) -> Any:
    """DVC's tree of a folder as the content of an output; nothing is stored."""
    return build(out, folder, dry_run=True)[2]


def objects(tree: Any) -> list[Any]:
    """What a remote needs of a version: its files, and their list."""
    return [*(content for _, _, content in tree), tree.hash_info]


def entries(tree: Any) -> Iterator[tuple[str, str]]:
    """The files of a tree: path in the folder, and MD5."""
    for parts, _, content in tree:
        yield "/".join(parts), content.value


def names(cache: Any, value: str) -> dict[str, str] | None:
    """The files of a version by path, with their MD5; None when the cache does not have its list."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree
    from dvc_objects.errors import ObjectFormatError

    try:
        return dict(entries(Tree.load(cache, HashInfo("md5", value))))
    except (ObjectFormatError, FileNotFoundError):
        return None


def is_cached(cache: Any, value: str) -> bool:
    """Whether the cache holds every file of a version."""
    listed = names(cache, value)
    return listed is not None and all(cache.exists(content) for content in listed.values())


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


def save_to_cache(out: Any, folder: str) -> None:
    """Put a folder into DVC's cache and make it the content of an output, which may lie elsewhere."""
    from dvc_data.hashfile.transfer import transfer

    built, meta, tree = build(out, folder)
    transfer(built, out.local_cache, {tree.hash_info}, shallow=False)
    out.hash_info, out.meta, out.obj, out.files = tree.hash_info, meta, tree, None


def build(out: Any, folder: str, dry_run: bool = False) -> tuple[Any, Any, Any]:
    """What DVC makes of a folder for an output: a store with its files' hashes, its size, and its tree."""
    from dvc_data.hashfile.build import build

    made: tuple[Any, Any, Any] = build(
        out.local_cache, folder, out.fs, out.hash_name, ignore=out.dvcignore, dry_run=dry_run
    )
    return made


def dvc_file(stage: Any) -> str:
    """The text of a stage's `.dvc` file."""
    from dvc.stage.serialize import to_single_stage_file
    from dvc.utils.serialize import dumps_yaml

    return str(dumps_yaml(to_single_stage_file(stage)))


def store(url: str) -> Any:
    """DVC's object store at an address. Raises what DVC raises for one that it cannot use."""
    from dvc.fs import get_cloud_fs
    from dvc_data.hashfile import db

    get_odb: Any = db.get_odb
    kind, options, path = get_cloud_fs({}, url=url)
    files = kind(**options)
    if kind.protocol == "s3":
        # We compare MD5s ourselves. The client's checksums cost time, and not every server that speaks S3 knows them: rclone
        # sends that of the whole object with a part of it, and nothing above 50 MB could be fetched.
        client = files.fs_args.setdefault("config_kwargs", {})
        for option in ("request_checksum_calculation", "response_checksum_validation"):
            client[option] = os.environ.get(f"AWS_{option.upper()}", "when_required")
    return get_odb(files, files.join(path, "files", "md5"), hash_name="md5")


def listing(hashes: dict[str, str]) -> Any:
    """DVC's tree of files, by the MD5 of each by its name."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    make: Any = Tree
    found = make()
    for name in sorted(hashes):
        found.add(tuple(name.split("/")), None, HashInfo("md5", hashes[name]))
    found.digest()
    return found


def listed(odb: Any, name: str) -> dict[str, str] | None:
    """The files of a tree in a store, with the MD5 of each; None if it is not there, or is not what its name says."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree
    from dvc_objects.errors import ObjectFormatError

    try:
        found = Tree.load(odb, HashInfo("md5", name))
    except (ObjectFormatError, FileNotFoundError):
        return None
    found.digest()
    return dict(entries(found)) if found.oid == name else None


def add(odb: Any, path: str, name: str, callback: Any) -> None:
    """Add a local file to a store under its MD5, by a link where it is on its file system."""
    from dvc_objects.fs.local import localfs

    odb.add(path, localfs, name, hardlink=True, callback=callback, check_exists=False)


def add_list(odb: Any, listed: Any) -> None:
    """Add a tree to a store, without what it names."""
    odb.add(listed.path, listed.fs, listed.oid)


def fetch(odb: Any, names: list[str], paths: list[str], callback: Any) -> None:
    """Fetch objects of a store to local paths, by links where it is on their file system."""
    from dvc_objects.fs.generic import transfer
    from dvc_objects.fs.local import localfs

    for path in paths:
        localfs.makedirs(localfs.parent(path), exist_ok=True)
    if paths:
        transfer(odb.fs, [odb.oid_to_path(one) for one in names], localfs, paths, hardlink=True, callback=callback)


def objects_in(odb: Any) -> dict[str, tuple[str, int, float]]:
    """All files in a store by their paths: the MD5 that the path stands for, bytes, and when it came there (seconds)."""
    from dvc_objects.fs.local import LocalFileSystem

    def name(path: str) -> str:
        return "".join(path.rsplit("/", 2)[-2:])

    if not odb.fs.exists(odb.path):
        return {}
    if isinstance(odb.fs, LocalFileSystem):
        found = {path: Path(path).stat() for path in odb.fs.find(odb.path)}
        # A link has the time of the file that it was made from; that it was made changes its ctime.
        return {path: (name(path), about.st_size, about.st_ctime) for path, about in found.items()}
    listed = odb.fs.fs.find(odb.path, detail=True)  # of the file system under DVC's, with sizes and times
    return {
        path: (name(path), int(about["size"]), about["LastModified"].timestamp())
        for path, about in listed.items()
        if "LastModified" in about  # of S3; elsewhere nothing is known to be old
    }


def counting(more: Callable[[int], None]) -> Any:
    """fsspec's callback of a transfer that passes on how many bytes more have arrived, of all files together."""
    from fsspec.callbacks import Callback

    class OfAFile(Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            more(inc)

    class OfAll(Callback):  # type: ignore[misc]
        def branched(self, path_1: Any, path_2: Any, **_: Any) -> Callback:
            return OfAFile()

    return OfAll()

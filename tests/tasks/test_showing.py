"""The files of versions as MLflow's artifacts: listed and downloaded by its own client, wherever they are; nothing is copied."""

from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from storyreason import runs
from tasks.registry import Version
from tests.tasks.test_cache import Machines, machines  # noqa: F401 (fixture)
from tests.tiny import tiny_base, tiny_bases, tiny_examples  # noqa: F401 (fixtures)


def content(folder: Path) -> dict[str, bytes]:
    """The files of a folder, those of an adapter's base among them."""
    inside = [*folder.iterdir(), *(folder / "base").glob("*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in inside if path.is_file()}


def model_of(found: Version) -> str:
    """The ID of MLflow's model of a version."""
    source = MlflowClient().get_model_version(found.name, found.number).source
    return str(source).removeprefix("models:/")


@pytest.mark.parametrize("where", ["here", "in the store"])
def test_mlflows_client_lists_and_downloads_a_version_wherever_its_files_are(
    where: str,
    machines: Machines,  # noqa: F811
) -> None:
    found = machines.register(1)
    before = content(Path(found.folder))
    if where == "in the store":
        machines.leave()
        machines.use("second")
    listed = {one.path: one for one in mlflow.artifacts.list_artifacts("models:/storyteller-smoke/1")}
    assert {name for name, one in listed.items() if one.is_dir} == {"model"}
    assert listed["training_stories.json"].file_size == len('["1"]')
    inside = {one.path: one.file_size for one in mlflow.artifacts.list_artifacts("models:/storyteller-smoke/1/model")}
    own = {f"model/{name}": len(bytes_) for name, bytes_ in before.items() if "/" not in name}
    assert inside == {**own, "model/base": None}

    folder = Path(mlflow.artifacts.download_artifacts("models:/storyteller-smoke@challenger"))
    assert content(folder / "model") == before
    assert (folder / "training_stories.json").read_text() == '["1"]'
    # What MLflow keeps: neither a path nor a copy
    where = MlflowClient().get_model_version_download_uri("storyteller-smoke", "1")
    assert where == f"storyreason:/versions/models/{model_of(found)}/artifacts"
    assert not [path for path in machines.here.glob("mlflow-artifacts/**/*") if path.is_file()]
    assert not list((runs.root() / "models").glob("*"))


def test_what_is_not_there_is_said_and_nothing_is_added(
    machines: Machines,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = machines.register(1)
    with pytest.raises(MlflowException, match=r"There is no model/nothing in storyreason:/versions"):
        mlflow.artifacts.download_artifacts("models:/storyteller-smoke/1/model/nothing")
    with pytest.raises(MlflowException, match="is a registered version: nothing can be added to it"):
        MlflowClient().log_model_artifacts(model_of(found), found.folder)
    machines.leave()
    machines.use("second")
    (machines.here / "store").rename(machines.here / "away")
    with pytest.raises(MlflowException, match=r"The version is not whole in .*there is no list"):
        mlflow.artifacts.list_artifacts("models:/storyteller-smoke/1")
    monkeypatch.setenv("STORYREASON_ARTIFACTS", "")
    with pytest.raises(MlflowException, match="No store of versions is set"):
        mlflow.artifacts.list_artifacts("models:/storyteller-smoke/1")

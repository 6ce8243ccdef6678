"""A checkout that was moved or copied goes on where it is, and a copy leaves the original alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from storyreason import runs
from storyreason.errors import RunError
from storyreason.serving import state
from tasks import moving, registry, tracking
from tests.tasks.cloned import clone, origin  # noqa: F401 (fixtures)
from tests.tasks.test_backup import place, used  # noqa: F401 (fixtures)

pytestmark = pytest.mark.server


@pytest.fixture
def enter(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a folder the current checkout, without touching its runs."""

    def there(folder: Path) -> None:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("STORYREASON_RUNS", str(folder / "runs"))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/runs/mlflow/mlflow.db")

    return there


def check_that_it_goes_on(root: Path, tmp_path: Path) -> None:
    """Everything of `used` is found under this root."""
    champion = registry.version("storyteller", "champion")
    assert champion.folder == str(root / "register" / (16 * "1") / "model")
    trained = runs.read_manifest(root / "train" / (16 * "2"))
    assert trained is not None and trained["result"] == str(root / "train" / (16 * "2") / "result")
    assert (root / "train" / (16 * "2") / "checkpoint-5").is_dir()
    client = MlflowClient()
    for run in client.search_runs([tracking.experiment()]):
        assert Path(client.download_artifacts(run.info.run_id, "gate/report.md", str(tmp_path))).is_file()
        assert run.info.artifact_uri.startswith(f"{root.as_uri()}/")
    served = state.served()
    assert served is not None and served.folder == champion.folder


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize("copied", [True, False], ids=["copied", "moved"])
def test_it_goes_on_elsewhere_and_an_original_stays_as_it_was(
    used: Path,  # noqa: F811
    enter: Callable[[Path], None],
    tmp_path: Path,
    copied: bool,
) -> None:
    token = state.token()
    of_checkpoint = Path("runs", "train", 16 * "2", "checkpoint-5", "identity.json")
    (used / of_checkpoint).write_text(json.dumps({"base": str(used / "tiny-base"), "seed": 7}))
    new = shutil.copytree(used, tmp_path / "elsewhere" / "clone")
    before = content(used / "runs")
    if not copied:
        shutil.rmtree(used)
    enter(new)
    with pytest.raises(RunError, match="`storyreason status` in this checkout changes that"):
        runs.root()
    said: list[str] = []

    moving.settle(said.append)

    (sentence,) = said
    assert f"{new}/runs {'is a copy of' if copied else 'was moved from'} {used}/runs" in sentence
    check_that_it_goes_on(new / "runs", tmp_path)
    assert json.loads((new / of_checkpoint).read_text()) == {"base": str(new / "tiny-base"), "seed": 7}
    assert state.token() != token  # the gateway of the original obeys it
    moving.settle(pytest.fail)  # once is enough
    if copied:
        assert content(used / "runs") == before


def test_what_was_changed_in_part_is_changed_whole_the_next_time(
    used: Path,  # noqa: F811
    enter: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the new place lies inside the old one, whose path then begins the new one."""
    new = used / "inside" / "it"
    shutil.copytree(used, tmp_path / "copy")
    shutil.rmtree(used)
    new.parent.mkdir(parents=True)
    (tmp_path / "copy").rename(new)
    enter(new)
    with monkeypatch.context() as patched:
        patched.setattr(runs, "write_text", _killed)  # after the databases, at the first manifest
        with pytest.raises(KeyboardInterrupt):
            moving.settle(print)

    moving.settle(print)

    check_that_it_goes_on(new / "runs", tmp_path)


def test_a_path_with_a_space_and_an_umlaut_is_moved_to_and_from(
    used: Path,  # noqa: F811
    enter: Callable[[Path], None],
    tmp_path: Path,
) -> None:
    for name in ("my prüfung", "elsewhere"):
        used = used.rename(tmp_path / name)
        enter(used)
        moving.settle(lambda _: None)
        check_that_it_goes_on(used / "runs", tmp_path)


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("part", ["prefect", "gateway"])
def test_while_a_process_uses_it_nothing_is_changed(
    used: Path,  # noqa: F811
    enter: Callable[[Path], None],
    tmp_path: Path,
    part: str,
) -> None:
    state.token()
    new = used.rename(tmp_path / "elsewhere")
    enter(new)
    with runs.lock(new / "runs" / part):
        before = content(new / "runs")
        with pytest.raises(RunError, match=r"a process that started there still runs .*: end it"):
            moving.settle(pytest.fail)
        assert content(new / "runs") == before

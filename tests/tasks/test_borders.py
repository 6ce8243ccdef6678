"""What MLflow and DVC raise for odd answers and damaged files reaches the user as one sentence, and nothing is lost."""

import json
import shutil
from pathlib import Path

import mlflow
import pytest

from storyreason.config import DataConfig
from storyreason.errors import DataError, RegistryError
from tasks import data, registry, tracking, versioning
from tasks.faults import from_outside, plainly
from tests.tasks.cloned import clone, origin, pull  # noqa: F401 (fixtures)
from tests.tasks.test_faults import Failed
from tests.test_borders import ODD, Answer, odd  # noqa: F401 (fixture)

pytestmark = pytest.mark.server

# ruff: noqa: F811 (the same as arguments)


def refusal(status: int, code: str) -> Answer:
    return status, {}, json.dumps({"error_code": code, "message": "no"}).encode()


MLFLOW: dict[str, tuple[Answer, bool]] = {
    "not compressed": (ODD["not compressed"], True),
    "a page": (ODD["a page"], True),
    "too deep": (ODD["too deep"], True),
    "a list": (ODD["a list"], True),
    "a wrong kind": ((200, {}, b'{"experiment": 5}'), False),
    "elsewhere": (ODD["elsewhere"], True),
    "no JSON": ((401, {}, b"who are you"), False),
    "a foreign host": ((403, {}, b"Invalid Host header"), False),
    "no such route": ((404, {}, b"nothing here"), False),
    "denied": (refusal(403, "PERMISSION_DENIED"), False),
    "an unknown code": (refusal(400, "WHAT"), True),
    "too often": ((429, {}, b""), True),
    "an error of its own": (refusal(500, "INTERNAL_ERROR"), True),
}
"""What a server that should be MLflow's may answer, and whether the step is tried again."""


@pytest.mark.parametrize("name", MLFLOW)
def test_an_mlflow_server_that_answers_otherwise(
    odd: tuple[str, list[Answer]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, answers = odd
    answer, again = MLFLOW[name]
    answers.append(answer)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    with pytest.raises(RegistryError, match=rf"^MLflow's server at {url} gives no answer") as told, plainly():
        tracking.experiment()

    assert "\n" not in str(told.value)
    cause = told.value.__cause__
    assert isinstance(cause, Exception)
    assert from_outside(None, None, Failed(told.value, cause)) is again


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_database_of_mlflow(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = tmp_path / "mlflow.db"
    database.write_bytes(content)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")

    with (
        pytest.raises(RegistryError, match=rf"{database} cannot be used .*file is not a database.*runs/backups"),
        plainly(),
    ):
        tracking.experiment()

    assert database.read_bytes() == content


def test_a_version_that_was_registered_by_hand_is_named(mlflow_store: None) -> None:
    client = mlflow.MlflowClient()
    client.create_registered_model("storyteller-by-hand")
    client.create_model_version("storyteller-by-hand", source="/models/mine")
    client.set_registered_model_alias("storyteller-by-hand", "champion", "1")

    for which in ("champion", "1"):
        with pytest.raises(RegistryError, match=r"storyteller-by-hand version 1 .* was not registered by a retraining"):
            registry.alias("storyteller-by-hand", which)


DVC_FILES = {
    "a conflict": b"<<<<<<< HEAD\nouts:\n- md5: a\n=======\nouts:\n- md5: b\n>>>>>>> theirs\n",
    "no UTF-8": b"\xff\xfe\0",
    "empty": b"",
    "a list": b"- 1\n",
    "no folder": b"outs: []\n",
    "another folder": b"outs:\n- md5: 0123456789abcdef0123456789abcdef.dir\n  path: other\n",
    "a number": b"outs:\n- md5: 12\n  path: data\n",
    "an unknown key": b"outs:\n- md5: 0123456789abcdef0123456789abcdef.dir\n  path: data\n  what: 1\n",
    "no version": b"outs:\n- path: data\n",
    "no hash": b"outs:\n- md5: hello\n  path: data\n",
    "out of the store": b"outs:\n- md5: ../../../etc.dir\n  path: data\n",
    "a single file": b"outs:\n- md5: 0123456789abcdef0123456789abcdef\n  path: data\n",
}
FILES = ["train-v1.parquet", "train-v2.parquet"]
CONFIGS = {
    "no section": b"[core",
    "no UTF-8": b"\xff\xfe",
    "an unknown section": b"[what]\n  a = 1\n",
    "an unknown scheme": b"[core]\n remote = r\n['remote \"r\"']\n url = nothing://x\n",
    "a remote that needs a package": b"[core]\n remote = r\n['remote \"r\"']\n url = gdrive://x\n",
    "no such remote": b"[core]\n remote = other\n",
}


@pytest.fixture
def pulled(clone: Path) -> Path:
    """A clone whose data are there."""
    assert pull(DataConfig()) == FILES
    return clone


def refused(clone: Path) -> str:
    """What is said when the data cannot be pulled. The version in the work tree stays."""
    with pytest.raises(DataError) as told:
        pull(DataConfig())
    assert sorted(path.name for path in (clone / "data").iterdir()) == FILES
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.mark.parametrize("name", DVC_FILES)
def test_a_damaged_dvc_file(name: str, pulled: Path) -> None:
    (pulled / "data.dvc").write_bytes(DVC_FILES[name])
    assert "data" in refused(pulled)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_damaged_configuration_of_dvc(name: str, pulled: Path) -> None:
    (pulled / ".dvc/config").write_bytes(CONFIGS[name])
    said = refused(pulled)
    assert f"{pulled} cannot be opened" in said or "No usable DVC remote" in said


@pytest.mark.parametrize("place", [".dvc/tmp", ".dvcignore"])
def test_a_damaged_folder_of_dvc(place: str, pulled: Path) -> None:
    if (pulled / place).is_dir():
        shutil.rmtree(pulled / place)
    (pulled / place).write_bytes(b"\xff\n")
    assert f"{pulled} cannot be opened" in refused(pulled)


@pytest.mark.parametrize("content", [b"{", b"[1]", b"", b'[{"md5": "aa", "relpath": "../../x"}]'])
@pytest.mark.parametrize("rev", [None, "v1"])
def test_a_damaged_list_of_files_in_the_remote(content: bytes, rev: str | None, clone: Path) -> None:
    for listing in (clone / "store").rglob("*.dir"):
        listing.chmod(0o644)
        listing.write_bytes(content)
    with pytest.raises(DataError, match=r"data\.dvc") as told:
        pull(DataConfig(rev=rev))
    assert "\n" not in str(told.value)
    assert not (clone / "data").exists() or not any((clone / "data").iterdir())
    assert not list(clone.parent.rglob("x"))


def test_a_checkout_with_a_damaged_git_still_pulls(clone: Path) -> None:
    (clone / ".git/HEAD").write_text("nothing")
    version = data.identify(DataConfig())
    versioning.fetch(version)
    assert versioning.is_current(version)

"""Planted secrets appear on no command line, in no output and in no file that a run leaves."""

import contextlib
import shutil
import subprocess
import threading
from collections.abc import Iterator

import psutil
import pytest

from tests.system.conftest import STORYREASON, Project

pytestmark = pytest.mark.server
SECRETS = {name: f"planted-{name}-0123456789" for name in ("mlflow", "remote", "s3", "hub", "key")}


@contextlib.contextmanager
def watched() -> Iterator[set[str]]:
    """The command lines with a secret in them that appear while the block runs."""
    seen, ending = set[str](), threading.Event()

    def watch() -> None:
        while not ending.wait(0.1):
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error):
                    line = " ".join(process.cmdline())
                    seen.update(line for secret in SECRETS.values() if secret in line)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield seen
    finally:
        ending.set()
        watching.join()


@pytest.fixture
def planted(project: Project) -> Project:
    """The project, with a secret of each kind where the guides say to put it, and nobody at any of the addresses."""
    project.environment |= {
        "STORYREASON_MLFLOW_STORE": f"postgresql+pg8000://me:{SECRETS['mlflow']}@127.0.0.1:9/mlflow",
        "MLFLOW_TRACKING_URI": f"http://me:{SECRETS['mlflow']}@127.0.0.1:9",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "AWS_ACCESS_KEY_ID": "me",
        "AWS_SECRET_ACCESS_KEY": SECRETS["s3"],
        "HF_TOKEN": SECRETS["hub"],
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "STORYREASON_API_KEYS": SECRETS["key"],
    }
    return project


def said(project: Project, *arguments: str) -> str:
    """What a command prints that ends with an error."""
    done = subprocess.run(
        [STORYREASON, *arguments], cwd=project.folder, env=project.environment, text=True, timeout=600,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode != 0
    return done.stdout


def test_planted_secrets_are_seen_nowhere(planted: Project) -> None:
    with watched() as seen:
        printed = [said(planted, *planted.retrain("--until", "train"))]
        assert "127.0.0.1:9 does not answer" in printed[-1]
        address = f"http://me:{SECRETS['remote']}@127.0.0.1:9/store"
        written = f"['remote \"sample\"']\n    url = {address}\n"
        (planted.folder / ".dvc" / "config.local").write_text(written)
        shutil.rmtree(planted.folder / "data")
        shutil.rmtree(planted.folder / ".dvc" / "cache")
        shutil.rmtree(planted.runs / "pull", ignore_errors=True)
        printed.append(said(planted, *planted.retrain("--until", "pull")))
        assert "The DVC remote sample (http://me:***@127.0.0.1:9/store)" in printed[-1]
        printed.append(said(planted, "publish", str(planted.folder / "tiny-base"), "me/mine"))

    config = planted.folder / ".dvc" / "config.local"  # where we have just put it
    files = [file for file in planted.folder.rglob("*") if file.is_file() and file != config]
    for name, secret in SECRETS.items():
        assert not [line for line in seen if secret in line], name
        assert not [text for text in printed if secret in text], name
        assert not [file for file in files if secret.encode() in file.read_bytes()], name

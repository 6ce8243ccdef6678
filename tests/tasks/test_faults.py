"""A failed step is retried unless its input is the cause, and failures of MLflow or the disk become one sentence."""

import errno
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest

from storyreason import runs
from storyreason.errors import DataError, EngineAwayError, GatewayError, ModelError, RegistryError, RunError
from tasks import tracking
from tasks.faults import from_outside, plainly
from tests.tiny import file_size_limit


class Failed:
    """A task's state that has only a result."""

    def __init__(self, error: Exception, cause: Exception | None = None) -> None:
        error.__cause__ = cause
        self._error = error

    def result(self) -> Any:
        raise self._error


@pytest.mark.parametrize(
    ("state", "again"),
    [
        (Failed(DataError("the remote broke off"), OSError("reset by peer")), True),
        (Failed(GatewayError("the gateway broke off"), httpx.ReadError("closed")), True),
        (Failed(EngineAwayError("vLLM does not answer")), True),
        (Failed(ConnectionError("no route")), True),
        (Failed(DataError("half of the stories are bad")), False),
        (Failed(ModelError("no config.json"), ValueError("not JSON")), False),
    ],
    ids=lambda value: str(getattr(value, "_error", value)),
)
def test_which_failures_are_retried(state: Failed, again: bool) -> None:
    assert from_outside(None, None, state) is again


def test_a_full_disk_becomes_one_sentence_that_names_the_file(tmp_path: Path) -> None:
    full = tmp_path / "weights"
    with (
        file_size_limit(10),
        pytest.raises(RunError, match=f"disk is full .writing {full}.*storyreason clean.*again"),
        plainly(),
    ):
        runs.write_text(full, "12345678901")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fails_is_named_before_the_words_of_the_library(tmp_path: Path) -> None:
    def torn_away() -> None:
        raise RuntimeError("PytorchStreamReader: file in archive is not in a subdirectory") from OSError(
            errno.EIO, "Input/output error", str(tmp_path)
        )

    with (
        pytest.raises(RunError, match=r"^The disk failed \(Input/output error\) .*check it\. Start it again"),
        plainly(),
    ):
        torn_away()


def test_a_full_disk_is_recognized_by_sqlites_own_message(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("pragma max_page_count = 2")
        with pytest.raises(RunError, match=r"The disk is full: make room"), plainly():
            database.execute("create table big as select randomblob(100000)")
    database.close()


def test_an_unreachable_mlflow_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(
        RegistryError, match=r"http://127\.0\.0\.1:9 does not answer: start it .*storyreason up"
    ) as told:
        _ask_mlflow()
    cause = told.value.__cause__
    assert isinstance(cause, Exception)
    assert from_outside(None, None, Failed(told.value, cause))  # and is tried again


@plainly()
def _ask_mlflow() -> None:
    tracking.experiment()


def test_any_other_failure_keeps_its_stack_trace() -> None:
    with pytest.raises(ZeroDivisionError), plainly():
        _ = 1 / 0

"""What the terminal shows when a flow has ended."""

import socket
from pathlib import Path

import pytest

from flows import report
from flows.retrain import Outcome
from storyreason import config


def test_addresses_of_mlflow_say_when_nothing_serves_them(
    mlflow_store: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:  # nobody answers there
        port = taken.getsockname()[1]
    monkeypatch.setenv("STORYREASON_MLFLOW_PORT", str(port))

    report.show_pages({"base": "a", "challenger": "b"})

    said = capsys.readouterr().out.splitlines()
    assert said[0] == "MLflow's server is not running: start it with `storyreason up` before you open these addresses."
    assert said[1].startswith(f"runs, the best first: http://127.0.0.1:{port}/#/experiments/")
    assert said[2].startswith("base against challenger: ")


def test_the_last_line_says_where_page_and_api_are(capsys: pytest.CaptureFixture[str]) -> None:
    report.show(Outcome(url="http://127.0.0.1:8400"), config.load("smoke"))

    assert capsys.readouterr().out.splitlines()[-1] == (
        "serving at http://127.0.0.1:8400 (the web page) and http://127.0.0.1:8400/v1 (OpenAI's API, model storyteller); stop it "
        "with: make down"
    )

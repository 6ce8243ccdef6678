"""How long MLflow takes to show the pages on which people compare models.

python benchmarks/comparing.py                 4 runs, logged as a retraining logs them; needs Chromium

It logs evaluated runs into a new MLflow store, starts MLflow's server, and opens in Chromium the list of runs, its charts
and the comparison of two runs. Each page is opened three times in a new browser; seconds are from the request until scores or
charts are drawn and the page rests. The goal is 5 s for each page on two idle cores.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TIMES = 3
REST = 30_000
"""Milliseconds after which a page that draws without a pause is taken as it is."""


def comparing(
    runs: Annotated[int, typer.Option(min=2, help="Runs to log.")] = 4,
    stories: Annotated[int, typer.Option(help="Test stories of each run.")] = 60,
) -> None:
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as url:
        logged = log_runs(runs, stories)
        found: dict[str, Any] = {"runs": runs, **counts(logged[0]), "seconds": {}}
        for name, page in pages(logged).items():
            found["seconds"][name] = [opened(page) for _ in range(TIMES)]
            typer.echo(f"{name}: {found['seconds'][name]} s", err=True)
    found["machine"] = {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "comparing.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    typer.echo(f"{json.dumps(found, indent=1)}\n{path} ({url})")


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """An MLflow server with a store of its own in `folder`; its address, which this process's runs go to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    os.environ |= {"STORYREASON_RUNS": str(folder), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    os.environ |= {"MLFLOW_TRACKING_URI": url, "MLFLOW_DISABLE_TELEMETRY": "true"}
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *store]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 300
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit((folder / "server.log").read_text())
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def log_runs(count: int, stories: int) -> list[str]:
    """Log runs as a training and an evaluation do, each with worse answers than the one before; gives their IDs."""
    import random

    from mlflow.entities import Metric

    from storyreason import sample, scoring
    from storyreason.config import load
    from storyreason.format import answer
    from tasks import tracking, training, views

    examples = list(sample.examples("test", films=stories))[:stories]
    references = [scoring.Reference.of(one) for one in examples]
    logged = []
    for number in range(count):
        config = load("sample", [f"training.learning_rate={(number + 1) * 1e-3}"])
        dice = random.Random(number)
        told = {
            one.story_id: answer.join(one.chain_of_thought, one.story) if dice.random() > 0.2 * number else ""
            for one in examples
        }
        run_id = tracking.open_run(
            "train",
            f"{number:016x}",
            training.run_name(config, f"{number:06x}"),
            views.parameters(config),
            {"storyreason.role": "tuned"},
        )
        for step in range(1, 101):
            points = [Metric(f"train/{name}", 3 / step, step, step) for name in training.CURVES["step"]]
            tracking.client().log_batch(run_id, points)
        card = scoring.score(references, told, protocols=("strict", "paper"), meteor=False)
        scores = {f"{decoding}/{name}": value for decoding in views.DECODINGS for name, value in card.metrics().items()}
        tracking.log_metrics(run_id, views.compared(scores | {"stories": len(examples)}, config))
        tracking.log_table(run_id, views.table(dict.fromkeys(views.DECODINGS, card)), "scores.json")
        tracking.note(run_id, views.sentence(card))
        tracking.close_run(run_id)
        logged.append(run_id)
        typer.echo(f"logged run {number + 1} of {count}", err=True)
    return logged


def counts(run_id: str) -> dict[str, int]:
    """How many metrics and parameters a run has."""
    from tasks import tracking

    data = tracking.client().get_run(run_id).data
    return {"metrics": len(data.metrics), "parameters": len(data.params)}


def pages(logged: list[str]) -> dict[str, tuple[str, str]]:
    """Each page's address, and the selector of what must be drawn."""
    from tasks import tracking, views

    experiment = tracking.experiment()
    listed = views.runs(experiment)
    return {
        "runs": (listed, "[role=gridcell] >> text=box F1"),
        "charts": (f"{listed}&compareRunsMode=CHART", "svg.main-svg"),
        "comparison": (views.comparison(experiment, logged[:2]), "svg.main-svg"),
    }


def opened(page: tuple[str, str]) -> float:
    """The seconds from the request of a page in a new browser until it is drawn and rests."""
    from playwright.sync_api import sync_playwright

    from docs import pictures

    address, drawn = page
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        shown = pictures.window(browser)
        began = time.perf_counter()
        shown.goto(address)
        shown.wait_for_selector(drawn, state="attached")
        # MLflow's page never stops asking its server, so "no request" would not come.
        shown.evaluate("timeout => new Promise(rest => requestIdleCallback(rest, { timeout }))", REST)
        seconds = time.perf_counter() - began
        browser.close()
    return round(seconds, 1)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    typer.run(comparing)

"""Takes the pictures of docs/operations.md and docs/compare.md: Prefect's and MLflow's pages, with Debian's Chromium.

storyreason up
storyreason retrain sample
storyreason retrain sample --set training.max_steps=60 --until evaluate   # a second model, to compare with
python docs/pictures.py http://127.0.0.1:4200 http://127.0.0.1:5000 docs

Each function opens a page and returns it once it has loaded; `tests/system/test_up.py` looks at the same pages.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from tasks import views

SCORE = "free/strict/grounding/f1"
NO_ASSISTANT = "try { localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true') } catch {}"
"""Keeps MLflow from opening its assistant on a browser's first visit (a sandboxed frame refuses to store it)."""
TRAINING = "workflowType=machine_learning"
"""MLflow's pages for training models; by default it shows those for applications of language models."""


def window(browser: Any) -> Any:
    """A new page of 1280 x 900 with light colours, patient, without MLflow's assistant."""
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page.set_default_timeout(120_000)
    page.add_init_script(NO_ASSISTANT)
    return page


def settle(page: Any) -> bytes:
    """The page's screenshot (PNG), once two in a row are equal: a canvas does not say when it has finished drawing."""
    before, now = b"", page.screenshot()
    while before != now:
        page.wait_for_timeout(700)
        before, now = now, page.screenshot()
    return bytes(now)


def form(page: Any, prefect: str) -> Any:
    """The form of the retraining that starts by itself."""
    asked = {"flows": {"name": {"any_": ["retrain"]}}}
    known = page.request.post(f"{prefect}/api/deployments/filter", data=asked).json()
    (deployment,) = (one for one in known if one["schedules"])
    page.goto(f"{prefect}/deployments/deployment/{deployment['id']}/run")
    page.wait_for_selector("text=learning_rate (Optional)")
    return page


def flow_run(page: Any, prefect: str) -> Any:
    """The newest retraining that reached the gate: its steps over time, and its artifacts."""
    page.goto(f"{prefect}/runs/flow-run/{_artifact(page, prefect, 'gate-report')['flow_run_id']}")
    page.wait_for_selector("text=Beginning flow run")
    page.wait_for_selector("canvas")
    page.locator("[role=tablist] #artifacts").click()
    page.get_by_text("data-card", exact=True).first.wait_for()
    return page


def artifact(page: Any, prefect: str, key: str) -> Any:
    """The newest artifact of a retraining by its key: scorecard, gate-report, training-curves, story-page, data-card."""
    page.goto(f"{prefect}/artifacts/artifact/{_artifact(page, prefect, key)['id']}")
    page.wait_for_selector("article h1")
    return page


def _artifact(page: Any, prefect: str, key: str) -> Any:
    asked = {
        "sort": "CREATED_DESC",
        "limit": 1,
        "artifacts": {"key": {"any_": [key]}},
        "flows": {"name": {"any_": ["retrain"]}},
    }
    return page.request.post(f"{prefect}/api/artifacts/filter", data=asked).json()[0]


def tuned(page: Any, mlflow: str) -> list[str]:
    """The IDs of the runs of trained and scored models, the newest first."""
    asked = {
        "experiment_ids": ["1"],
        "filter": "tags.`storyreason.role` = 'tuned'",
        "order_by": ["attributes.start_time DESC"],
    }
    runs = page.request.post(f"{mlflow}/api/2.0/mlflow/runs/search", data=asked).json()["runs"]
    return [
        run["info"]["run_id"]
        for run in runs
        if any("/" in m["key"] and "strict" in m["key"] for m in run["data"]["metrics"])
    ]


def run(page: Any, mlflow: str, identity: str) -> dict[str, Any]:
    """A run's name and parameters."""
    found = page.request.get(f"{mlflow}/api/2.0/mlflow/runs/get?run_id={identity}").json()["run"]
    return {"name": found["info"]["run_name"], "params": {one["key"]: one["value"] for one in found["data"]["params"]}}


def comparison(page: Any, mlflow: str) -> Any:
    """MLflow's comparison of the two newest models: what differs in their parameters, against a score."""
    runs = json.dumps(tuned(page, mlflow)[:2])
    page.goto(f'{mlflow}/#/compare-runs?runs={runs}&experiments=["1"]&{TRAINING}')
    page.wait_for_selector("text=Comparing 2 Runs")
    page.wait_for_selector("svg.main-svg")
    chooser = page.get_by_role("combobox").nth(1)
    chooser.click()
    chooser.press("Backspace")  # the metric that comes first in the alphabet
    chooser.fill(SCORE)
    page.get_by_title(SCORE, exact=True).first.click()
    page.keyboard.press("Escape")
    return page


def scores(page: Any, mlflow: str) -> Any:
    """The list of runs as its printed address opens it: scores as columns, the best run first."""
    page.goto(views.first_page(mlflow))
    page.get_by_role("gridcell").filter(has_text="box F1").first.wait_for()
    return page


def charts(page: Any, mlflow: str, search: str = "loss") -> Any:
    """The charts of all runs of the experiment whose name contains `search`."""
    page.goto(f"{views.first_page(mlflow)}&compareRunsMode=CHART")
    page.get_by_placeholder("Search metric charts").fill(search)
    page.wait_for_selector("svg.main-svg")
    return page


def version(page: Any, mlflow: str, model: str = "storyteller") -> Any:
    """The newest version of a registered model: aliases, card, tags."""
    known = page.request.get(f"{mlflow}/api/2.0/mlflow/registered-models/get-latest-versions?name={model}").json()
    page.goto(f"{mlflow}/#/models/{model}/versions/{known['model_versions'][0]['version']}?{TRAINING}")
    page.wait_for_selector("text=Looks at a sequence of images")
    page.set_viewport_size({"width": 1280, "height": 600})  # the tags below name folders of the machine
    return page


def main(prefect: str, mlflow: str, folder: Path) -> None:
    """Write the pictures: prefect-form.png and so on."""
    pictures: dict[str, Callable[[Any], Any]] = {
        "prefect-form": lambda page: form(page, prefect),
        "prefect-run": lambda page: flow_run(page, prefect),
        "prefect-scorecard": lambda page: artifact(page, prefect, "scorecard"),
        "prefect-gate": lambda page: artifact(page, prefect, "gate-report"),
        "mlflow-runs": lambda page: scores(page, mlflow),
        "mlflow-comparison": lambda page: comparison(page, mlflow),
        "mlflow-charts": lambda page: charts(page, mlflow),
        "mlflow-version": lambda page: version(page, mlflow),
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for name, picture in pictures.items():
            page = window(browser)
            (folder / f"{name}.png").write_bytes(settle(picture(page)))
            page.close()
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))

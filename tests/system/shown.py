"""What the UIs of Prefect and MLflow must show, each as a check of a page, given the addresses of both.

They want a platform on which two models were trained and scored, and the last one that was deployed told a story.
"""

from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from docs import pictures
from storyreason.config import load
from tasks import views

NOT_OURS = ("Failed to load resource", "ResizeObserver loop", "GL Driver")
"""Console errors of MLflow's and Prefect's own pages: MLflow asks for a user although there are none."""


def form(page: Any, prefect: str, mlflow: str) -> None:
    """At most 12 fields, each with its description, range and the preset's value; the preset cannot be left empty."""
    pictures.form(page, prefect)
    fields = page.locator(".schema-form-property__label")
    assert 1 < fields.count() <= 12
    rate = page.locator(".schema-form-property", has=page.get_by_text("learning_rate (Optional)", exact=True)).last
    assert "The highest learning rate. Above 0, at most 1. Empty: the preset's, 0.001." in rate.inner_text()
    assert "overrides" in page.inner_text("body").lower()


def flow_run(page: Any, prefect: str, mlflow: str) -> None:
    """A finished run and its artifacts."""
    pictures.flow_run(page, prefect)
    shown = page.inner_text("body")
    assert "retrain-smoke" in shown and "Completed" in shown
    # Artifacts of steps are fetched when one comes to where they stand.
    page.mouse.move(640, 700)
    for key in ("data-card", "training-curves", "scorecard", "gate-report", "story-page"):
        page.mouse.wheel(0, 5000)
        page.get_by_text(key, exact=True).first.wait_for()


def artifacts(page: Any, prefect: str, mlflow: str) -> None:
    """Scores with intervals, the gate's report, the curve; and the story's page, which is a link away in MLflow."""
    table = pictures.artifact(page, prefect, "scorecard").locator("table")
    assert table.locator("tr").first.inner_text().split()[:2] == ["base", "challenger"]
    assert "valid answers, free" in table.inner_text() and "0.000 [0.000, " in table.inner_text()
    assert fits(table)
    report = pictures.artifact(page, prefect, "gate-report")
    report.get_by_text("What was checked").wait_for()
    assert fits(report.locator("table"))
    assert "Promote storyteller-smoke version" in report.inner_text("h1 >> nth=-1")
    picture = pictures.artifact(page, prefect, "training-curves").get_by_alt_text("The loss over the steps")
    assert picture.evaluate("async image => { await image.decode(); return image.naturalWidth }") > 500

    link = (
        pictures.artifact(page, prefect, "story-page").get_by_role("link", name="the story page").get_attribute("href")
    )
    assert link.startswith(mlflow)
    page.goto(link)
    page.frame_locator("iframe").get_by_text("images").first.wait_for()


def fits(table: Any) -> bool:
    """Whether nothing of a table is cut off: Prefect's page does not wrap its cells."""
    return bool(table.evaluate("table => table.scrollWidth <= table.parentElement.clientWidth"))


def best(page: Any, prefect: str, mlflow: str) -> None:
    """From the printed address, the better of two models is in the first row; three clicks show both side by side."""
    client = MlflowClient(mlflow)
    for name, value in (("worse", 0.7), ("better", 0.8)):
        made = client.create_run("1", run_name=name, tags={"mlflow.note.content": f"box F1 {value}"}).info.run_id
        client.log_metric(made, views.deciding(load("smoke")), value)
        client.set_terminated(made)

    pictures.scores(page, mlflow)

    rows = [page.locator(f".ag-row[row-index='{number}']") for number in range(2)]
    rows[0].get_by_text("better").first.wait_for()
    shown = [" ".join(row.all_inner_texts()) for row in rows]
    assert ["better" in shown[0], "worse" in shown[1]] == [True, True], shown
    assert "box F1 0.8" in shown[0] and "box F1 0.7" in shown[1]
    for row in rows:
        row.locator("input[type=checkbox]").first.click()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.wait_for_selector("text=Comparing 2 Runs")


def comparison(page: Any, prefect: str, mlflow: str) -> None:
    """Two models: their names, what differs in their parameters, their scores, in the table and in the plot."""
    runs = [pictures.run(page, mlflow, identity) for identity in pictures.tuned(page, mlflow)[:2]]
    rates = [run["params"]["training.learning_rate"] for run in runs]
    assert rates[0] != rates[1]

    pictures.comparison(page, mlflow)

    def row(name: str) -> list[str]:
        cells = page.locator("tr", has=page.get_by_text(name, exact=True)).first.locator("th, td").all_inner_texts()
        return [cell.strip() for cell in cells[1:]]

    assert row("Run Name:") == [run["name"] for run in runs]
    assert row("training.learning_rate") == rates
    assert len(row(pictures.SCORE)) == 2
    for axis in ("training.learning_rate", pictures.SCORE):
        page.locator(".js-plotly-plot").get_by_text(axis).first.wait_for()


def charts(page: Any, prefect: str, mlflow: str) -> None:
    """The curves of both models in one chart, named as the runs are."""
    runs = [pictures.run(page, mlflow, identity) for identity in pictures.tuned(page, mlflow)[:2]]
    pictures.charts(page, mlflow)
    page.locator(".js-plotly-plot path.js-line").nth(1).wait_for(state="attached")
    shown = page.inner_text("body")
    assert "train/loss" in shown and "validation/loss" in shown
    assert all(run["name"] in shown for run in runs)


def version(page: Any, prefect: str, mlflow: str) -> None:
    """The registered model's lineage: base, data, code, and the run that it came of."""
    pictures.version(page, mlflow, "storyteller-smoke")
    shown = page.inner_text("body")
    for name in ("base model", "data (md5)", "code (git commit)", "storyreason.data_md5", "challenger"):
        assert name in shown


def files(page: Any, prefect: str, mlflow: str) -> None:
    """The files of a version, a click away from its page: MLflow lists them, shows a text, and its button downloads it."""
    pictures.version(page, mlflow, "storyteller-smoke")
    with page.expect_popup() as opened:
        page.get_by_role("link", name="Its files").click()
    tree = opened.value
    tree.set_default_timeout(120_000)
    tree.get_by_text("training_stories.json", exact=True).wait_for()
    tree.get_by_text("model", exact=True).last.click()
    tree.get_by_text("generation_config.json", exact=True).click()
    tree.get_by_text("transformers_version").first.wait_for()
    with tree.expect_download() as saved:
        tree.locator("button[data-component-id*=artifactview]").click()
    assert "transformers_version" in Path(saved.value.path()).read_text()
    tree.close()


CHECKS = (form, flow_run, artifacts, comparison, charts, version, files, best)

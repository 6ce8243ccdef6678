"""What the UIs of Prefect and MLflow must show, each as a check of a page, given the addresses of both.

They want a platform on which two models were trained and scored, and the last one that was deployed told a story.
"""

from typing import Any

from docs import pictures

NOT_OURS = ("Failed to load resource", "ResizeObserver loop", "GL Driver")
"""Console errors of MLflow's and Prefect's own pages: MLflow asks for a user although there are none."""


def form(page: Any, prefect: str, mlflow: str) -> None:
    """Grouped parameters, each with description, range, default and the preset's value."""
    pictures.form(page, prefect)
    inside = page.locator(".schema-form-property", has=page.get_by_text("Learning Rate (Optional)", exact=True))
    group, rate = inside.filter(has=page.get_by_text("Training (Optional)", exact=True)).last, inside.last
    assert "How a base model is fine-tuned" in group.inner_text()
    assert "The peak learning rate." in rate.inner_text()
    assert "Above 0, at most 1; default 0.0002." in rate.inner_text()
    assert float(rate.locator("input").input_value()) == 1e-3


def flow_run(page: Any, prefect: str, mlflow: str) -> None:
    """A finished run and its artifacts."""
    pictures.flow_run(page, prefect)
    shown = page.inner_text("body")
    assert "retrain-smoke" in shown and "Completed" in shown
    # Artifacts of steps are fetched when one comes to where they stand.
    page.mouse.move(640, 700)
    page.mouse.wheel(0, 5000)
    for key in ("data-card", "training-curves", "scorecard", "gate-report", "story-page"):
        page.get_by_text(key, exact=True).first.wait_for()


def artifacts(page: Any, prefect: str, mlflow: str) -> None:
    """Scores with intervals, the gate's report, the curve; and the story's page, which is a link away in MLflow."""
    table = pictures.artifact(page, prefect, "scorecard").locator("table")
    assert table.locator("tr").first.inner_text().split()[:2] == ["base", "challenger"]
    assert "valid answers, free" in table.inner_text() and " to " in table.inner_text()
    report = pictures.artifact(page, prefect, "gate-report")
    report.get_by_text("What was checked").wait_for()
    assert "Promote storyteller-smoke version" in report.inner_text("h1 >> nth=-1")
    picture = pictures.artifact(page, prefect, "training-curves").get_by_alt_text("The loss over the steps")
    assert picture.evaluate("image => image.complete && image.naturalWidth") > 500

    link = (
        pictures.artifact(page, prefect, "story-page").get_by_role("link", name="the story page").get_attribute("href")
    )
    assert link.startswith(mlflow)
    page.goto(link)
    page.frame_locator("iframe").get_by_text("images").first.wait_for()


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


CHECKS = (form, flow_run, artifacts, comparison, charts, version)

"""Evaluation as a step: the test split told by vLLM, read, scored, and written where people compare models."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from storyreason import answer, dataset, generation, page, runs, scoring
from storyreason.config import RunConfig
from storyreason.generation.vllm import VllmServer
from storyreason.scoring.charts import charts
from tasks import registry
from tasks.progress import Progress

VERSION = 2
PACE = {"concurrency", "timeout", "retries", "pause"}
"""Of the generation's settings, those that change no answer."""
COMPARISON_VERSION = 1
PAGES = 12
"""So many stories are shown on the evaluation's page; all of them stand in the table."""


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a model folder (or Hub name), the identity of its content, and the run its scores belong to."""

    role: str
    folder: str
    identity: str
    run_id: str | None = None
    version: str | None = None


def fingerprint(config: RunConfig, subject: Subject, data_md5: str) -> str:
    """What decides the scores: model, data, decoding."""
    return runs.fingerprint(
        step="evaluate",
        version=VERSION,
        model=subject.identity,
        data=data_md5,
        stories=config.data.test_stories,
        generation=config.generation.model_dump(mode="json", exclude=PACE),
        max_model_len=config.serving.max_model_len,
    )


@task(name="evaluate", task_run_name="evaluate-{subject.role}", retries=1, retry_delay_seconds=5)
def evaluate(config: RunConfig, subject: Subject, data: dict[str, Any], print_: str) -> dict[str, Any]:
    """Tell the test split through vLLM, several stories at a time; score; log. A killed run tells only what is missing."""
    folder = runs.work_folder("evaluate", print_)
    if manifest := runs.read_manifest(folder):
        return manifest
    examples = dataset.load(Path(data["files"][0]), "test")[: config.data.test_stories]
    with runs.lock(folder):
        told = _tell(config, subject, examples, folder)
        references = [scoring.Reference.of(example) for example in examples]
        card = scoring.score(references, told, protocols=("strict", "paper"))
        runs.write_text(folder / "scorecard.json", card.to_json())
        of = {str(row["story_id"]): _numbers(row) for row in card.table()}
        shown = [
            page.view(
                e.story_id, e.images, told[e.story_id], answer.join(e.chain_of_thought, e.story), scores=of[e.story_id]
            )
            for e in examples[:PAGES]
        ]
        runs.write_text(folder / "stories.html", page.render(shown, f"{subject.role}: stories of the test split"))
        run_id = _log(subject, print_, data, card, folder)
        metrics = {f"free/{name}": value for name, value in card.metrics().items()}
        get_run_logger().info("%s: %s", subject.role, headline(metrics))
        return runs.write_manifest(
            folder,
            files=("predictions.jsonl", "scorecard.json", "stories.html"),
            role=subject.role,
            run_id=run_id,
            scorecard=str(folder / "scorecard.json"),
            page=str(folder / "stories.html"),
            metrics=metrics,
        )


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if isinstance(value, float)}


def headline(metrics: dict[str, float]) -> str:
    """The scores that a person looks at first, in one line."""
    return (
        f"valid {metrics['free/strict/validity/valid']:.1%}, box F1 {metrics['free/strict/grounding/f1']:.3f} "
        f"(precision {metrics['free/strict/grounding/precision']:.3f}, recall {metrics['free/strict/grounding/recall']:.3f})"
    )


def _tell(config: RunConfig, subject: Subject, examples: Any, folder: Path) -> dict[str, str]:
    out = folder / "predictions.jsonl"
    if not out.exists():
        progress = Progress(f"evaluate-{subject.role}", f"telling the test split ({subject.role})")
        with VllmServer(subject.folder, config.serving, folder / "vllm.log") as engine:
            generation.predict(
                engine.url,
                engine.name,
                examples,
                config.generation,
                out,
                on_progress=lambda done, total: progress.tell(
                    done, total, f"{subject.role}: {done}/{total} stories told"
                ),
            )
    return {prediction.story_id: prediction.answer for prediction in generation.predictions.read(out)}


def _log(subject: Subject, print_: str, data: dict[str, Any], card: scoring.Scorecard, folder: Path) -> str:
    """Metrics, intervals, the per-story table and the page, on the run of the training, or on one of its own."""
    from mlflow.entities import Metric

    mlflow = registry.client()
    run_id = subject.run_id or registry.open_run(
        "evaluate",
        print_,
        name=f"{subject.role} {subject.identity[:6]}",
        parameters={"model": subject.folder},
        tags=registry.lineage(data_md5=data["md5"], role=subject.role),
    )
    values = {f"free/{name}": value for name, value in card.metrics().items()}
    for name, (low, high) in card.intervals().items():
        values |= {f"free/{name}/low": low, f"free/{name}/high": high}
    mlflow.log_batch(run_id, metrics=[Metric(name, value, 0, 0) for name, value in values.items()])
    registry.log_table(run_id, card.table(), "free/stories.json")
    for name, figure in charts({subject.role: card}).items():
        mlflow.log_figure(run_id, figure, f"free/charts/{name}.png")
    mlflow.log_artifact(run_id, str(folder / "stories.html"), "free")
    mlflow.log_artifact(run_id, str(folder / "scorecard.json"), "free")
    if subject.run_id is None:
        registry.close_run(run_id)
    return run_id


def comparison_fingerprint(version: registry.Version, scores: dict[str, dict[str, Any]]) -> str:
    """What decides the comparison: the scorecards, which are named by what decided them."""
    cards = {role: score["scorecard"] for role, score in scores.items()}
    return runs.fingerprint(step="compare", version=COMPARISON_VERSION, run=version.run_id, scorecards=cards)


@task(name="compare", retries=1, retry_delay_seconds=5)
def compare(version: registry.Version, scores: dict[str, dict[str, Any]], print_: str) -> dict[str, Any]:
    """The challenger's scores story by story against each other's, and all of them in one set of charts, on its run."""
    folder = runs.work_folder("compare", print_)
    if manifest := runs.read_manifest(folder):
        return manifest
    cards = {role: _read(score) for role, score in scores.items()}
    mlflow = registry.client()
    others = [role for role in cards if role != "challenger"]
    for role in others:
        differences = scoring.compare(cards["challenger"], cards[role]).values()
        rows = [{**asdict(one), "real": one.real} for one in differences]
        columns = {"a": "challenger", "b": role}
        rows = [{columns.get(key, key): value for key, value in row.items()} for row in rows]
        registry.log_table(version.run_id, rows, f"free/challenger_against_{role}.json")
    for name, figure in charts(cards).items():
        mlflow.log_figure(version.run_id, figure, f"free/compared/{name}.png")
    return runs.write_manifest(folder, run_id=version.run_id, compared_with=others)


@task(name="gate")
def gate(
    config: RunConfig,
    challenger: registry.Version,
    incumbent: Subject,
    scores: dict[str, dict[str, Any]],
    data_md5: str,
) -> dict[str, Any]:
    """Decide whether the challenger is promoted, and write down why. A decision is never cached."""
    decision = scoring.decide(
        _read(scores["challenger"]),
        _read(scores["incumbent"]),
        config.gate,
        challenger=f"{challenger.name} version {challenger.number}",
        incumbent=incumbent.role if incumbent.version is None else f"{challenger.name} version {incumbent.version}",
        trained_on={"challenger": training_stories(challenger.folder), "incumbent": training_stories(incumbent.folder)},
    )
    create_markdown_artifact(decision.report, key="gate-report", description=decision.reason)
    mlflow = registry.client()
    mlflow.log_text(challenger.run_id, decision.report, "gate/report.md")
    registry.tag_version(challenger, gate="promote" if decision.promote else "hold", gate_reason=decision.reason[:400])
    get_run_logger().info("gate: %s. %s", "promote" if decision.promote else "hold", decision.reason)
    return {"promote": decision.promote, "reason": decision.reason, "report": decision.report}


def training_stories(folder: str) -> frozenset[str]:
    """The IDs of the stories a model was trained on (`training_stories.json` beside its folder); empty for a base model."""
    path = Path(folder).with_name("training_stories.json")
    return frozenset(json.loads(path.read_text())) if path.is_file() else frozenset()


def _read(scores: dict[str, Any]) -> scoring.Scorecard:
    return scoring.Scorecard.from_json(Path(scores["scorecard"]).read_text())

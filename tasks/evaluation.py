"""Evaluation as a step: vLLM tells the test split; the answers are read, scored, and logged where people compare models."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from prefect import get_run_logger

from storyreason import generation, page, runs, scoring
from storyreason.config import RunConfig
from storyreason.format import answer
from storyreason.generation import Prediction, several
from storyreason.generation.answering import Illustrated
from storyreason.generation.config import Decoding
from storyreason.scoring import control
from storyreason.scoring.catalogue import BOX_F1, HEADLINES, VALID
from storyreason.scoring.charts import charts
from storyreason.scoring.config import Asked
from storyreason.scoring.control import CONTROLS
from storyreason.scoring.scorecard import Control
from storyreason.scoring.wrong import Wrong
from storyreason.scoring.wrong import wrong as stories_of
from tasks import accelerator, tracking, views
from tasks.data import Base, stories_to_tell
from tasks.progress import Progress
from tasks.registry import Version
from tasks.results import Compared, Evaluated, Pulled
from tasks.steps import Work, step

VERSION = 6
DECODINGS: tuple[Decoding, ...] = get_args(Decoding)
PACE = {"concurrency", "timeout", "retries", "pause"}
"""Generation settings that do not change the answers."""
FINGERPRINTED = {"request", "images_first", "temperature", "top_p", "max_tokens", "seed"}
"""Generation settings that are in every fingerprint so far. Do not add new ones: see `runs.deciding`."""
CHANGING_ANSWERS = {"max_model_len", "dtype", "quantization", "kv_cache_dtype", "extra_args"}
"""Settings of an engine that may change its answers."""
COMPARISON_VERSION = 1
FILES = (".jsonl", "-scorecard.json", "-stories.html")
"""The files of an evaluation for each decoding: `free.jsonl`, `free-scorecard.json`, `free-stories.html`."""
PAGES = 12
"""How many stories the evaluation's page shows; the table has all of them."""


@dataclass(frozen=True)
class Subject:
    """A model to evaluate: its folder (or Hub name), the identity of its content, and the run its scores belong to."""

    role: str
    folder: str
    identity: str
    run_id: str | None = None
    version: str | None = None
    revision: str | None = None
    """The branch, tag or commit of a base on the Hub."""

    @classmethod
    def of_base(cls, base: Base) -> "Subject":
        """The base model of a run."""
        return cls("base", base.folder, base.identity, revision=base.revision)

    @classmethod
    def of(cls, role: str, version: Version, data: Pulled) -> "Subject":
        """A registered version. Its scores belong to its training run only on the data that it was trained on."""
        run_id = version.run_id if version.data_md5 == data.md5 else None
        return cls(role, version.folder, version.identity, run_id=run_id, version=version.number)


def subjects(
    base: Base, challenger: Version, champion: Version | None, data: Pulled, supervised: Version | None = None
) -> list[Subject]:
    """What a retraining evaluates: the base, the new version, and the champion if that is another version.

    `supervised` is what an improved challenger was before.
    """
    found = [Subject.of_base(base)]
    if supervised is not None and (champion is None or champion.number != supervised.number):
        found.append(Subject.of("supervised", supervised, data))
    found.append(Subject.of("challenger", challenger, data))
    if champion is not None and champion.number != challenger.number:
        found.append(Subject.of("champion", champion, data))
    return found


def fingerprint(config: RunConfig, subject: Subject, data: Pulled) -> str:
    """What determines the scores: model, data, decoding."""
    left_out = sorted(data.faulty_test_stories)
    return runs.fingerprint(
        step="evaluate",
        version=VERSION,
        model=subject.identity,
        data=data.md5,
        stories=config.data.test_stories,
        **({"left_out": left_out} if left_out else {}),
        generation=runs.deciding(
            config.generation.as_trained(subject.folder), always=FINGERPRINTED, never=PACE | {"decoding"}
        ),
        decodings=config.evaluation.decodings,
        **runs.deciding(config.evaluation, always=(), never={"decodings"}),
        **runs.deciding(
            config.serving,
            always={"max_model_len", "dtype"},
            never=set(type(config.serving).model_fields) - CHANGING_ANSWERS,
        ),
    )


@step(fingerprint, retries=1, run_name="evaluate-{subject.role}")
def evaluate(work: Work, config: RunConfig, subject: Subject, data: Pulled) -> Evaluated:
    """Tell the test split through vLLM, score it and log it. After a kill, only the missing stories are told."""
    folder = work.folder
    examples = list(stories_to_tell(config.data, data))
    references = [scoring.Reference.of(example) for example in examples]
    metrics: dict[str, float] = {"stories": len(examples)}
    cards: dict[Decoding, scoring.Scorecard] = {}
    wrong: dict[Asked | None, list[Wrong]] = {
        kind: stories_of(kind, examples)[: config.evaluation.control_stories] for kind in config.evaluation.controls
    }
    told = _tell(config, subject, {None: examples, **wrong}, folder)
    for decoding in config.evaluation.decodings:
        answers = told[decoding, None]
        card = scoring.score(
            references, _texts(answers), protocols=("strict", "paper"), grounded=decoding == "grounded"
        )
        again = {
            str(kind): _asked_again(references, shown, told[decoding, kind], decoding)
            for kind, shown in wrong.items()
            if shown
        }
        card = cards[decoding] = replace(card, controls={**card.controls, **again})
        metrics |= {f"{decoding}/{name}": value for name, value in card.metrics().items()} | _controlled(decoding, card)
        runs.write_text(folder / f"{decoding}-scorecard.json", card.to_json())
        runs.write_text(
            folder / f"{decoding}-stories.html", _page(config.name, subject, decoding, examples, answers, card)
        )
    if ("grounded", None) in told:
        metrics |= _mended(references, told["grounded", None])
    run_id = _log(config, subject, work, data, metrics, cards)
    get_run_logger().info("%s: %s", subject.role, headline(metrics))
    return Evaluated(
        files=(
            *(f"{decoding}{kind}" for decoding in cards for kind in FILES),
            *(_file(decoding, kind) for decoding, kind in told if kind),
        ),
        role=subject.role,
        run_id=run_id,
        scorecards={decoding: str(folder / f"{decoding}-scorecard.json") for decoding in cards},
        pages={decoding: str(folder / f"{decoding}-stories.html") for decoding in cards},
        metrics=metrics,
    )


def _texts(answers: list[Prediction]) -> dict[str, str]:
    return {one.story_id: one.answer for one in answers}


def _page(
    preset: str, subject: Subject, decoding: str, examples: Any, answers: list[Prediction], card: scoring.Scorecard
) -> str:
    of = {str(row["story_id"]): _numbers(row) for row in card.table()}
    shown = [
        page.view(e.story_id, e.images, one.answer, answer.join(e.chain_of_thought, e.story), scores=of[e.story_id])
        for e, one in zip(examples[:PAGES], answers, strict=False)
    ]
    version = f" {subject.version}" if subject.version else ""
    return page.render(shown, f"{preset} {subject.role}{version}: stories of the test split, {decoding} decoding")


def _mended(references: list[scoring.Reference], answers: list[Prediction]) -> dict[str, float]:
    """The effect of mending: how many boxes it changed, and the two scores that it can change, without it."""
    before = {one.story_id: one.unmended or one.answer for one in answers}
    without = scoring.score(references, before, grounded=True).metrics()
    names = (VALID, BOX_F1)
    return {
        "grounded/mended_boxes": float(sum(one.mended for one in answers)),
        **{f"grounded/unmended/{name}": without[name] for name in names},
    }


def _asked_again(
    references: list[scoring.Reference], shown: list[Wrong], answers: list[Prediction], decoding: Decoding
) -> Control:
    """What a model that was asked with wrong frames keeps of its scores."""
    instead = {one.story_id: one.instead for one in shown}
    asked = [one for one in references if one.story_id in instead]
    card = scoring.score(asked, _texts(answers), ("strict", "paper"), meteor=False, grounded=decoding == "grounded")
    return control.compared(card, {one.story_id: instead[one.story_id] for one in asked})


def _controlled(decoding: str, card: scoring.Scorecard) -> dict[str, float]:
    """What each score that may be the gate's primary keeps in each control, and its share of what that leaves to gain."""
    metrics = {}
    for wrong in card.controls:
        for name, one in control.controlled(card, wrong).items():
            if one.above is not None:
                metrics[f"{decoding}/control/{wrong}/{name}"] = one.controlled
                metrics[f"{decoding}/above_control/{wrong}/{name}"] = one.above
    return metrics


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if isinstance(value, float)}


def headline(metrics: dict[str, float]) -> str:
    """The headline scores of each decoding, in one line."""
    lines = []
    for decoding in DECODINGS:
        found = {score: metrics[name] for score in HEADLINES if (name := f"{decoding}/{score.name}") in metrics}
        if found:
            scores = ", ".join(f"{score.title} {score.text(value)}" for score, value in found.items())
            lines.append(f"{decoding}: {scores}")
    return "; ".join(lines)


def _file(decoding: Decoding, kind: Asked | None) -> str:
    """`free.jsonl`, or `free-grey.jsonl` for a control."""
    return f"{decoding}-{kind}{FILES[0]}" if kind else f"{decoding}{FILES[0]}"


def _tell(
    config: RunConfig, subject: Subject, asked: Mapping[Asked | None, Sequence[Illustrated]], folder: Path
) -> dict[tuple[Decoding, Asked | None], list[Prediction]]:
    """The answers of each decoding, to the examples themselves (None) and as each control shows them.

    The same engines tell them all (`serving.data_parallel`); they start only when some are missing.
    """
    files = {
        (decoding, kind): folder / _file(decoding, kind) for kind in asked for decoding in config.evaluation.decodings
    }
    missing = {place: file for place, file in files.items() if not file.exists()}
    if missing:
        progress = Progress(f"evaluate-{subject.role}", f"telling the test split ({subject.role})")
        of, before = sum(len(asked[kind]) for _, kind in missing), 0
        log = folder / "vllm.log"
        with (
            accelerator.taken(config.serving.devices),
            several.engines(subject.folder, config.serving, log, subject.revision) as engines,
        ):
            urls, name = [engine.url for engine in engines], engines[0].name
            for (decoding, kind), file in missing.items():

                def report(
                    done: int, total: int, decoding: str = decoding, kind: Any = kind, before: int = before
                ) -> None:
                    what = f"{decoding} decoding, {CONTROLS[kind]}" if kind else f"{decoding} decoding"
                    progress.report(before + done, of, f"{subject.role}, {what}: {done}/{total} stories told")

                request = config.generation.as_trained(subject.folder).model_copy(update={"decoding": decoding})
                generation.predict(urls, name, asked[kind], request, file, on_progress=report)
                before += len(asked[kind])
    return {place: generation.answering.read(file) for place, file in files.items()}


def _log(
    config: RunConfig,
    subject: Subject,
    work: Work,
    data: Pulled,
    metrics: dict[str, float],
    cards: dict[Decoding, scoring.Scorecard],
) -> str:
    """Log metrics, tables, charts and pages on the training's run, or on a new one; gives the run's ID."""
    mlflow = tracking.client()
    run_id = subject.run_id or tracking.open_run(
        "evaluate",
        work.fingerprint,
        name=f"{subject.role} {work.fingerprint[:6]}",
        parameters=views.parameters(config, "training", "improve"),
        tags=tracking.lineage(data_md5=data.md5, role=subject.role, folder=subject.folder),
    )
    tracking.log_data(run_id, config.data.target, data, "test")
    if subject.run_id is None:
        tracking.log_config(run_id, config)
    tracking.note(run_id, "; ".join(f"{decoding}: {views.sentence(card)}" for decoding, card in cards.items()))
    tracking.log_table(run_id, views.table(cards), "scores.json")
    for decoding, card in cards.items():
        tracking.log_table(run_id, card.table(), f"{decoding}/stories.json")
        for name, figure in charts({subject.role: card}).items():
            mlflow.log_figure(run_id, figure, f"{decoding}/charts/{name}.png")
        for kind in ("scorecard.json", "stories.html"):
            mlflow.log_text(run_id, (work.folder / f"{decoding}-{kind}").read_text(), f"{decoding}/{kind}")
    tracking.log_metrics(run_id, views.compared(metrics, config))
    if subject.run_id is None:
        tracking.close_run(run_id)
    return run_id


def comparison_fingerprint(version: Version, scores: dict[str, Evaluated]) -> str:
    """What determines the comparison: the scorecards, whose paths hold the fingerprints of their evaluations."""
    cards = {role: one.scorecards for role, one in scores.items()}
    return runs.fingerprint(step="compare", version=COMPARISON_VERSION, run=version.run_id, scorecards=cards)


@step(comparison_fingerprint, retries=1)
def compare(work: Work, version: Version, scores: dict[str, Evaluated]) -> Compared:
    """Log the challenger's scores against each other model's, story by story, and charts of them all, on its run."""
    others = [role for role in scores if role != "challenger"]
    mlflow = tracking.client()
    for decoding in scores["challenger"].scorecards:
        cards = {role: one.scorecard(decoding) for role, one in scores.items()}
        for role in others:
            columns = {"a": "challenger", "b": role}
            rows = [
                {columns.get(key, key): value for key, value in asdict(one).items()} | {"real": one.real}
                for one in scoring.compare(cards["challenger"], cards[role]).values()
            ]
            tracking.log_table(version.run_id, rows, f"{decoding}/challenger_against_{role}.json")
        for name, figure in charts(cards).items():
            mlflow.log_figure(version.run_id, figure, f"{decoding}/compared/{name}.png")
    return Compared(files=(), run_id=version.run_id, compared_with=others)

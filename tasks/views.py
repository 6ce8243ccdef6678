"""Where people compare in MLflow: addresses of its pages, the saved view of the runs, and what a run says of itself.

MLflow's UI has two modes, one for model training and one for applications of language models. Every address here opens the
first. Links between MLflow's own pages are relative (`#/…`), so they hold when its port changes.
"""

import json
import os
import re
import urllib.request
from collections.abc import Iterable
from typing import TYPE_CHECKING, get_args

from storyreason.config import RunConfig, load
from storyreason.generation.config import Decoding
from storyreason.scoring.catalogue import BOX_F1, IDF1, MAIN, SCORES, VALID
from storyreason.training import job
from tasks import settings

if TYPE_CHECKING:
    from storyreason import scoring

EXPERIMENT = "storyteller"
"""The one experiment in which all models are compared."""
MODE = "workflowType=machine_learning"
VERSIONS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": "The files of registered versions: open one under *Models*, then *Artifacts*. Runs and scores are in "
    f"the experiment *{EXPERIMENT}*.",
}
"""The tags of the experiment that holds MLflow's models of registered versions."""
VIEW = "scores"
"""The name of the saved view, which addresses give as `viewStateShareKey`."""
DECODINGS: tuple[Decoding, ...] = get_args(Decoding)
MOST_PARAMETERS = 40
MOST_TEXT = 6000
"""MLflow's limit for the value of a parameter."""
DECISIVE = {
    "name", "model", "generation.temperature", "generation.max_tokens", "evaluation.decodings", "gate.primary", "gate.min_gain",
    "serving.max_model_len",
}  # fmt: skip
"""The parameters that a run shows besides those of its data, base model and training."""
NOT_COMPARED = {"training.recompute", "training.liger", "data.source"}
"""Keys that change the results by rounding alone, or not at all."""


def deciding(config: RunConfig) -> str:
    """The metric by which the saved view sorts the runs: the one by which the gate decides."""
    return config.gate.primary


def columns(config: RunConfig) -> list[str]:
    """The scores among the columns of the saved view, the deciding one first."""
    scores = [f"{decoding}/{name}" for decoding in ("grounded", "free") for name in (BOX_F1, IDF1, VALID)]
    decoded = sorted(scores, key=lambda name: name.partition("/")[0] not in config.evaluation.decodings)
    return list(dict.fromkeys([deciding(config), *decoded]))


def experiment_tags(experiment: str) -> dict[str, str]:
    """The tags of the experiment with this ID: its kind, what its page says, and the saved view, which sorts the runs by the
    score that decides with the checkout's preset."""
    config = load(settings.read().preset)
    widths = {"attributes.`Run Name`": 230, "runDateAndNestInfo": 150, "attributes.`Description`": 350}
    widths |= {f"metrics.`{name}`": 210 for name in columns(config)} | {"params.`overrides`": 260}
    state = {
        "selectedColumns": [name for name in widths if "`" in name and name != "attributes.`Run Name`"],
        "columnOrder": list(widths),
        "columnWidths": widths,
        "orderByKey": f"metrics.`{deciding(config)}`",
        "orderByAsc": False,
    }
    return {
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": f"[Runs with their scores, the best first]({_runs(experiment)}): select two and press *Compare*.",
        f"mlflow.sharedViewState.{VIEW}": json.dumps(state),
    }


def server() -> str:
    """The address of the MLflow server in use, or of the one that `storyreason up` starts; no user, no password."""
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not tracking.startswith("http"):
        return settings.read().mlflow_url
    return re.sub(r"//[^@/]*@", "//", tracking.rstrip("/"))


def run(experiment: str, run_id: str, artifact: str = "") -> str:
    """Where MLflow shows a run, or one of its artifacts."""
    page = f"{server()}/#/experiments/{experiment}/runs/{run_id}"
    return f"{page}/artifacts/{artifact}?{MODE}" if artifact else f"{page}?{MODE}"


def files(experiment: str, model: str) -> str:
    """A link within MLflow to the files of a logged model."""
    return f"#/experiments/{experiment}/models/{model}/artifacts?{MODE}"


def runs(experiment: str, at: str | None = None) -> str:
    """Where MLflow, at this address or at that of the server in use, lists all runs with their scores, the best first."""
    return f"{at or server()}/{_runs(experiment)}"


def _runs(experiment: str) -> str:
    return f"#/experiments/{experiment}/runs?{MODE}&viewStateShareKey={VIEW}"


def first_page(mlflow: str) -> str:
    """The list of runs on the MLflow server at this address; its first page while it has no experiment or does not answer."""
    query = f"{mlflow}/api/2.0/mlflow/experiments/get-by-name?experiment_name={EXPERIMENT}"
    try:
        with urllib.request.urlopen(query, timeout=5) as answer:
            return runs(json.load(answer)["experiment"]["experiment_id"], mlflow)
    except (OSError, ValueError, KeyError):
        return f"{mlflow}/?{MODE}"


def comparison(experiment: str, run_ids: Iterable[str]) -> str:
    """Where MLflow compares these runs."""
    # Encoded, because terminals end a link at a quotation mark.
    listed = ",".join(f"%22{one}%22" for one in run_ids)
    return f"{server()}/#/compare-runs?runs=%5B{listed}%5D&experiments=%5B%22{experiment}%22%5D&{MODE}"


def parameters(config: RunConfig, *left_out: str) -> dict[str, str]:
    """What decides a run's results, and in one text what differs from its preset; without groups that are `left_out`.

    At most 40, so that a comparison can be read. The whole configuration is the run's artifact `config.yaml`.
    """
    keys = {*job.deciding(config.training), "batch_size", "accumulation", "processes"}
    training = {f"training.{key}" for key in keys}
    groups = ("data.", "base.", *(("improve.",) if config.improve.method != "none" else ()))
    chosen = {
        key: str(value)
        for key, value in config.flat().items()
        if (key in training or key in DECISIVE or key.startswith(groups))
        and key not in NOT_COMPARED
        and not key.startswith(tuple(f"{group}." for group in left_out))
    }
    changed = {key: value for key, value in config.changes().items() if key.partition(".")[0] not in left_out}
    overrides = " ".join(f"{key}={value}" for key, value in changed.items())
    return dict(list(chosen.items())[: MOST_PARAMETERS - 1]) | {"overrides": overrides[:MOST_TEXT]}


def compared(metrics: dict[str, float], config: RunConfig) -> dict[str, float]:
    """The scores of an evaluation that become metrics of its run: about two dozen for each decoding, and the controls of
    the score that decides.

    Each metric is a chart of its own in MLflow, and a page with hundreds of charts takes minutes. All scores with their
    intervals are in the run's table `scores.json`.
    """
    names = {"stories", "grounded/mended_boxes"} | {f"{decoding}/{one.name}" for decoding in DECODINGS for one in MAIN}
    from storyreason.scoring import control

    decoding, _, primary = deciding(config).partition("/")
    names |= {
        f"{decoding}/{what}/{wrong}/{primary}" for what in ("control", "above_control") for wrong in control.CONTROLS
    }
    return {name: value for name, value in metrics.items() if name in names}


def table(cards: "dict[Decoding, scoring.Scorecard]") -> list[dict[str, str | float]]:
    """Every score of each decoding with its 95 % interval, as rows of the run's table `scores.json`.

    `label` says whether a score depends on the pictures; `control` is what it keeps against the references of other films'
    stories, `control_high` the upper bound of that, both empty for a score that compares no boxes.
    """
    from storyreason.scoring import control

    rows: list[dict[str, str | float]] = []
    for decoding, card in cards.items():
        intervals, label, controlled = card.intervals(), control.labels(card), control.controlled(card)
        for name, value in card.metrics().items():
            score, (low, high), wrong = SCORES[name], intervals[name], controlled.get(name)
            rows.append(
                {
                    "score": f"{decoding}/{name}",
                    "title": f"{score.title}, {decoding}",
                    "value": value,
                    "low": low,
                    "high": high,
                    "better": score.better or "",
                    "label": label[name],
                    "control": wrong.controlled if wrong else "",
                    "control_high": wrong.high if wrong else "",
                }
            )
    return rows


def sentence(card: "scoring.Scorecard") -> str:
    """The scores by which a version is known: `box F1 0.557 (0.536 to 0.577), IDF1 0.474, valid answers 1.000`."""
    metrics, parts = card.metrics(), []
    if BOX_F1 in metrics:
        text = SCORES[BOX_F1].text
        low, high = card.intervals()[BOX_F1]
        parts.append(f"box F1 {text(metrics[BOX_F1])} ({text(low)} to {text(high)})")
    parts += [
        f"{title} {SCORES[name].text(metrics[name])}"
        for name, title in ((IDF1, "IDF1"), (VALID, "valid answers"))
        if name in metrics
    ]
    return ", ".join(parts)

"""What MLflow shows of a run, and the addresses of its pages."""

import json
from pathlib import Path

import pytest

from storyreason import sample, scoring
from storyreason.config import load, presets
from storyreason.format import answer
from storyreason.scoring import control
from storyreason.scoring.catalogue import SCORES
from storyreason.training.progress import IMPROVING
from tasks import tracking, training, views


@pytest.fixture(scope="module")
def card() -> scoring.Scorecard:
    examples = list(sample.examples("test", films=3))
    told = {one.story_id: answer.join(one.chain_of_thought, one.story) for one in examples}
    return scoring.score([scoring.Reference.of(one) for one in examples], told)


@pytest.mark.parametrize("preset", presets())
def test_a_run_has_at_most_40_parameters_and_one_of_them_says_what_differs_from_the_preset(preset: str) -> None:
    changed = load(preset, ["training.learning_rate=0.5", "serving.max_num_seqs=3", "gate.confidence=0.9"])

    shown = views.parameters(changed)

    assert len(shown) <= views.MOST_PARAMETERS
    assert shown["training.learning_rate"] == "0.5"
    assert shown["overrides"] == "training.learning_rate=0.5 gate.confidence=0.9 serving.max_num_seqs=3"
    assert views.parameters(load(preset))["overrides"] == ""
    assert {"training.learning_rate", "overrides"} == {
        key for key, value in views.parameters(load(preset)).items() if shown[key] != value
    }


def test_every_score_of_both_decodings_and_every_curve_are_at_most_62_metrics() -> None:
    scores = {f"{decoding}/{name}": 1.0 for decoding in views.DECODINGS for name in SCORES}
    unmended = {f"grounded/unmended/{name}": 1.0 for name in SCORES}
    at = [f"{decoding}/{what}/other-reference" for decoding in views.DECODINGS for what in ("control", "above_control")]
    controls = {f"{place}/{name}": 1.0 for place in at for name in SCORES}
    everything = {"stories": 1.0, "grounded/mended_boxes": 1.0, **scores, **unmended, **controls}

    shown = views.compared(everything, load("sample"))

    # What improves a model has a run of its own, with a dozen more when it learns from rewards.
    curves = [len(names - {*IMPROVING}) for event, names in training.CURVES.items() if event != "round"]
    assert len(training.CURVES["round"]) <= 14
    assert len(shown) + sum(curves) <= 62
    assert set(views.columns(load("sample"))) <= shown.keys()
    # Of the controls, that of the score that decides.
    assert shown.keys() & controls.keys() == {
        "grounded/control/other-reference/strict/grounding/f1",
        "grounded/above_control/other-reference/strict/grounding/f1",
    }


def test_the_table_holds_every_score_with_its_interval(card: scoring.Scorecard) -> None:
    rows = {row["score"]: row for row in views.table({"free": card, "grounded": card})}

    assert rows.keys() == {f"{decoding}/{name}" for decoding in views.DECODINGS for name in card.metrics()}
    low, high = card.intervals()["strict/grounding/f1"]
    assert rows["free/strict/grounding/f1"] == {
        "score": "free/strict/grounding/f1",
        "title": "box F1, free",
        "value": 1.0,
        "low": low,
        "high": high,
        "better": "higher",
        "label": "image-dependent",
        "control": control.controlled(card)["strict/grounding/f1"].controlled,
        "control_high": control.controlled(card)["strict/grounding/f1"].high,
    }
    words = rows["free/strict/language/words"]
    assert (words["label"], words["control"], words["control_high"]) == ("text-only", "", "")


def test_a_sentence_says_the_scores_by_which_a_version_is_known(card: scoring.Scorecard) -> None:
    assert views.sentence(card) == "box F1 1.000 (1.000 to 1.000), IDF1 1.000, valid answers 1.000"


def test_the_experiment_has_a_saved_view_whose_columns_are_scores_the_best_run_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    identity = tracking.client().create_experiment(views.EXPERIMENT)  # as older code left it

    assert tracking.experiment() == identity

    tags = tracking.client().get_experiment(identity).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    state = json.loads(tags["mlflow.sharedViewState.scores"])
    assert "metrics.`grounded/strict/grounding/f1`" in state["selectedColumns"]
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`grounded/strict/grounding/f1`", False)
    assert f"#/experiments/{identity}/runs?" in tags["mlflow.note.content"]


def test_addresses_follow_the_port_and_open_the_mode_for_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///nowhere.db")
    monkeypatch.setenv("STORYREASON_MLFLOW_PORT", "5077")

    shown = [
        views.run("1", "a"),
        views.run("1", "a", "free/stories.html"),
        views.runs("1"),
        views.comparison("1", "ab"),
    ]

    assert all(one.startswith("http://127.0.0.1:5077/#/") and views.MODE in one for one in shown)
    assert views.first_page("http://127.0.0.1:9") == "http://127.0.0.1:9/?workflowType=machine_learning"


def test_a_new_key_of_the_training_does_not_push_another_out() -> None:
    assert len(views.parameters(load("sample"))) <= views.MOST_PARAMETERS - 2
    assert load("sample").flat().keys() >= views.NOT_COMPARED | views.DECISIVE

"""Evaluation: the test split as it is, without the stories that cannot be used."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from prefect.logging import disable_run_logger

from storyreason import dataset, model, runs, sample
from storyreason.config import BaseModelConfig, EvaluationConfig, RunConfig
from storyreason.format import answer
from storyreason.generation import several
from storyreason.generation.config import GenerationConfig
from storyreason.generation.vllm import VllmServer
from storyreason.scoring import control
from storyreason.scoring.catalogue import BOX_F1
from storyreason.scoring.wrong import wrong
from tasks import data as data_step
from tasks import evaluation, tracking
from tasks.data import Base
from tasks.evaluation import Subject
from tasks.results import Evaluated, Pulled
from tests import frozen

FREE = RunConfig.model_validate(
    {"evaluation": {"decodings": ["free"]}, "gate": {"primary": "free/strict/grounding/f1"}}
)


def pulled(folder: Path, faulty: dict[str, str] | None = None) -> Pulled:
    """Data in a folder, with what is wrong with some test stories."""
    return Pulled((str(folder),), md5="d41d8cd98f00b204", rev=None, card="", faulty_test_stories=faulty or {})


def write_answers(data: Pulled, subject: Subject, config: RunConfig = FREE) -> None:
    """Write the references as answers to all stories, so that no engine starts.

    Asked with wrong frames, the model tells of those of another film or in another order, and says nothing of grey ones.
    """
    examples = [one for one in dataset.load(data.folder, "test") if one.story_id not in data.faulty_test_stories]
    told = {one.story_id: answer.join(one.chain_of_thought, one.story) for one in examples}
    answers = {"free": told}
    for kind in config.evaluation.controls:
        shown = wrong(kind, examples)[: config.evaluation.control_stories]
        answers[f"free-{kind}"] = {one.story_id: told.get(one.instead, "") for one in shown}
    folder = runs.work_folder("evaluate", evaluation.fingerprint(config, subject, data))
    for name, texts in answers.items():
        rows = [
            {"story_id": id, "prediction": text, "cut": False, "prompt_tokens": 1, "tokens": 1}
            for id, text in texts.items()
        ]
        runs.write_text(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def evaluate(data: Pulled, subject: Subject, config: RunConfig = FREE) -> Evaluated:
    with disable_run_logger():
        return evaluation.evaluate.compute(config, subject, data)


@pytest.mark.server
def test_an_evaluation_leaves_out_what_does_not_decode_and_keeps_what_wrong_frames_leave_of_each_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_store: None
) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    monkeypatch.setattr(evaluation, "Progress", Mock())
    first, *others = sample.examples("test", films=6)
    broken = replace(first, images=(b"no picture", *first.images[1:]))
    dataset.write([broken, *others], tmp_path / "data", "test")
    data = pulled(tmp_path / "data", {first.story_id: "why"})
    subject = Subject("base", "tiny-base", "0123456789abcdef")
    asked_again = EvaluationConfig(decodings=("free",), controls=("other-film", "grey"), control_stories=7)
    config = FREE.model_copy(update={"evaluation": asked_again})
    write_answers(data, subject, config)

    scored = evaluate(data, subject, config)

    assert scored.metrics["stories"] == len(others) == 11
    assert scored.metrics["free/strict/grounding/f1"] == 1.0
    run = tracking.client().get_run(scored.run_id)
    assert run.data.metrics["stories"] == 11
    assert run.data.metrics.keys() < scored.metrics.keys()  # the rest is in the table
    assert (
        run.data.tags["mlflow.note.content"] == "free: box F1 1.000 (1.000 to 1.000), IDF1 1.000, valid answers 1.000"
    )
    artifacts = {one.path for one in tracking.client().list_artifacts(scored.run_id)}
    assert {"scores.json", "config.yaml"} <= artifacts
    assert first.story_id not in Path(scored.scorecards["free"]).read_text()
    (written,) = tmp_path.glob("evaluate/*/manifest.json")
    assert frozen.types(json.loads(written.read_text())) == frozen.manifest("evaluate")
    _keeps_controls(scored, run.data.metrics)


def _keeps_controls(scored: Evaluated, logged: dict[str, float]) -> None:
    card = scored.scorecard("free")
    assert list(card.controls) == ["other-reference", "other-film", "grey"]
    assert set(card.controls["grey"].instead.values()) == {"grey"}
    assert len(card.controls["grey"].instead) == len(card.controls["other-film"].instead) == 7
    # With the frames of another film, the model tells that film's story.
    assert 0 < control.controlled(card, "other-film")[BOX_F1].controlled < 0.3
    assert control.controlled(card, "grey")[BOX_F1].controlled == 0
    assert control.labels(card)[BOX_F1] == "image-dependent"
    assert {"free-other-film.jsonl", "free-grey.jsonl"} < set(scored.files)
    # MLflow has the controls of the score that decides, and of no other.
    assert {name for name in logged if "control/" in name} == {
        f"free/{what}/{kind}/{BOX_F1}" for what in ("control", "above_control") for kind in card.controls
    }
    assert logged[f"free/control/grey/{BOX_F1}"] == 0


@pytest.mark.server
def test_one_engine_tells_the_stories_and_what_the_controls_show(
    vllm_server: VllmServer, untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = Mock()
    monkeypatch.setattr(evaluation, "Progress", Mock(return_value=progress))
    monkeypatch.setattr(several, "engines", lambda *_: nullcontext([vllm_server]))
    stories = list(sample.examples("test", films=1))
    assert dataset.sizes(stories[0]) == dataset.sizes(stories[1])
    config = FREE.model_copy(update={"generation": GenerationConfig(max_tokens=8)})
    subject = Subject("base", str(untrained), "0123456789abcdef")

    told = evaluation._tell(config, subject, {None: stories, "grey": wrong("grey", stories)}, tmp_path)

    assert {place: len(answers) for place, answers in told.items()} == {("free", None): 2, ("free", "grey"): 2}
    assert {path.name for path in tmp_path.glob("*.jsonl")} == {"free.jsonl", "free-grey.jsonl"}
    # Grey frames of the same sizes are the same to the model, whatever the story.
    first, second = told["free", "grey"]
    assert first.answer == second.answer
    assert [call.args[:2] for call in progress.report.call_args_list][-1] == (4, 4)


def test_a_base_of_the_hub_is_evaluated_in_the_revision_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def engines(*given: object) -> None:
        asked.append(given)
        raise InterruptedError

    monkeypatch.setattr(model, "load_identity", lambda base, revision: f"{base}@{revision}")
    monkeypatch.setattr(several, "engines", engines)
    monkeypatch.setattr(evaluation, "Progress", Mock())
    for name, revision in (("owner/model", "abc"), (str(tmp_path), None)):
        base = data_step._base(BaseModelConfig(name=name, revision="abc"), None)
        assert base == Base(name, f"{name}@{revision}", revision)
        with pytest.raises(InterruptedError):
            evaluation._tell(FREE, Subject.of_base(base), {None: []}, tmp_path)
        assert (asked[-1][0], asked[-1][3]) == (name, revision)


@pytest.mark.parametrize(("controls", "same"), [((), True), (("grey",), False)])
def test_asking_again_is_part_of_the_fingerprint(controls: tuple[str, ...], same: bool) -> None:
    subject = Subject("base", "tiny-base", "0123456789abcdef")
    changed = RunConfig.model_validate(
        FREE.model_dump() | {"evaluation": {"decodings": ["free"], "controls": list(controls)}}
    )
    named = [evaluation.fingerprint(config, subject, pulled(Path("data"))) for config in (FREE, changed)]
    assert (named[0] == named[1]) is same


def test_left_out_stories_are_part_of_the_fingerprint() -> None:
    subject = Subject("base", "tiny-base", "0123456789abcdef")

    def named(faulty: dict[str, str]) -> str:
        return evaluation.fingerprint(FREE, subject, pulled(Path("data"), faulty))

    assert named({}) != named({"a-1": "why"}) != named({"a-2": "why"})


@pytest.mark.parametrize("images_first", [True, False])
def test_a_champion_of_another_recipe_is_prompted_as_it_was_trained(tmp_path: Path, images_first: bool) -> None:
    champion = Subject("champion", str(tmp_path), "0123456789abcdef")
    data = pulled(Path("data"))

    def named(asked: bool) -> str:
        order = {"images_first": asked}
        config = RunConfig.model_validate({"training": order, "generation": order})
        return evaluation.fingerprint(config, champion, data)

    assert named(True) != named(False)
    (tmp_path / "storyreason.json").write_text(json.dumps({"images_first": images_first}))
    assert named(True) == named(False)

"""Evaluation: the test split as it is, without the stories that cannot be used."""

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from prefect.logging import disable_run_logger

from storyreason import dataset, runs, sample
from storyreason.config import RunConfig
from storyreason.format import answer
from tasks import evaluation, tracking
from tasks.evaluation import Subject
from tasks.results import Evaluated, Pulled
from tests import frozen

FREE = RunConfig.model_validate(
    {"evaluation": {"decodings": ["free"]}, "gate": {"primary": "free/strict/grounding/f1"}}
)


def pulled(folder: Path, faulty: dict[str, str] | None = None) -> Pulled:
    """Data in a folder, with what is wrong with some test stories."""
    return Pulled((str(folder),), md5="d41d8cd98f00b204", rev=None, card="", faulty_test_stories=faulty or {})


def write_answers(data: Pulled, subject: Subject) -> None:
    """Write the references as answers to all stories, so that no engine starts."""
    told = [
        {"story_id": one.story_id, "prediction": answer.join(one.chain_of_thought, one.story)}
        for one in dataset.load(data.folder, "test")
        if one.story_id not in data.faulty_test_stories
    ]
    lines = [json.dumps({**one, "cut": False, "prompt_tokens": 1, "tokens": 1}) + "\n" for one in told]
    folder = runs.work_folder("evaluate", evaluation.fingerprint(FREE, subject, data))
    runs.write_text(folder / "free.jsonl", "".join(lines))


def evaluate(data: Pulled, subject: Subject) -> Evaluated:
    with disable_run_logger():
        return evaluation.evaluate.compute(FREE, subject, data)


@pytest.mark.server
def test_a_test_story_with_a_picture_that_does_not_decode_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_store: None
) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    monkeypatch.setattr(evaluation, "Progress", Mock())
    first, *others = sample.examples("test", films=2)
    broken = replace(first, images=(b"no picture", *first.images[1:]))
    dataset.write([broken, *others], tmp_path / "data", "test")
    data = pulled(tmp_path / "data", {first.story_id: "why"})
    subject = Subject("base", "tiny-base", "0123456789abcdef")
    write_answers(data, subject)

    scored = evaluate(data, subject)

    assert scored.metrics["stories"] == len(others) == 3
    assert scored.metrics["free/strict/grounding/f1"] == 1.0
    run = tracking.client().get_run(scored.run_id)
    assert run.data.metrics["stories"] == 3
    assert run.data.metrics.keys() < scored.metrics.keys()  # the rest is in the table
    assert (
        run.data.tags["mlflow.note.content"] == "free: box F1 1.000 (1.000 to 1.000), IDF1 1.000, valid answers 1.000"
    )
    artifacts = {one.path for one in tracking.client().list_artifacts(scored.run_id)}
    assert {"scores.json", "config.yaml"} <= artifacts
    card = json.loads(Path(scored.scorecards["free"]).read_text())
    assert first.story_id not in json.dumps(card)
    (written,) = tmp_path.glob("evaluate/*/manifest.json")
    assert frozen.types(json.loads(written.read_text())) == frozen.manifest("evaluate")


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

"""The gate asks a judge about what would be promoted; its prompt has a version in MLflow for each text."""

import json
from pathlib import Path
from typing import Any

import mlflow
import pytest
from prefect.logging import disable_run_logger

from storyreason import dataset, sample
from storyreason.config import RunConfig
from storyreason.format import answer
from storyreason.judging import rubric
from storyreason.scoring import Decision
from tasks import judging, progress, tracking
from tasks.results import Evaluated, Pulled
from tests.storyreason.authoring import scripted
from tests.storyreason.judging.test_judging import honest


def evaluated(folder: Path, examples: list[dataset.Example], more: str) -> Evaluated:
    """A model that tells the data's stories with something added."""
    folder.mkdir()
    rows = [
        {"story_id": one.story_id, "prediction": answer.join(one.chain_of_thought, one.story.rstrip() + more),
         "cut": False, "prompt_tokens": 1, "tokens": 1}
        for one in examples
    ]  # fmt: skip
    (folder / "free.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Evaluated((), folder.name, "", {"free": str(folder / "free-scorecard.json")}, {}, {})


def test_a_version_whose_stories_a_judge_likes_less_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_store: None
) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(progress.Progress, "_show", lambda *_: None)
    dataset.write(sample.examples("test", films=2), tmp_path / "data", "test")
    data = Pulled((str(tmp_path / "data"),), md5="0" * 32, rev=None, card="", faulty_test_stories={})
    examples = list(dataset.load(tmp_path / "data", "test"))
    good, bad = (evaluated(tmp_path / name, examples, more) for name, more in (("good", ""), ("bad", " All wrong.")))
    run_id = mlflow.MlflowClient().create_run(tracking.experiment()).info.run_id

    def decided(url: str, verdict: Any, ours: Evaluated, theirs: Evaluated) -> Decision:
        config = RunConfig.model_validate(
            {
                "gate": {"min_stories": 4, "primary": "free/strict/grounding/f1"},
                "judge": {"endpoint": url, "model": "judge"},
            }
        )
        before = Decision(verdict, "box F1 rose", "nothing", "new", "old", 4, config.gate, ())
        with disable_run_logger():
            return judging.asked(config, data, before, ours, theirs, run_id)

    with scripted.endpoint(honest) as endpoint:
        assert decided("", "promote", bad, good).verdict == "promote"  # there is no judge
        assert decided(endpoint.url, "keep", good, bad).verdict == "keep"
        assert endpoint.bodies == []  # nothing to hold back
        assert decided(endpoint.url, "promote", good, bad).verdict == "promote"
        held = decided(endpoint.url, "promote", bad, good)
        assert held.verdict == "keep" and "a judge's preference: -1.00" in held.reason
        asked = len(endpoint.bodies)
        assert decided(endpoint.url, "promote", bad, good) == held
        assert len(endpoint.bodies) == asked  # what was paid is kept

    report = json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/gate/judge.json"))
    assert report["preferred"] == {"prediction": 0.0, "neither": 0.0, "other": 1.0}
    assert (report["model"], report["prompt"], report["prompt_version"]) == ("judge", rubric.PROMPT, 1)
    tags = mlflow.MlflowClient().get_run(run_id).data.tags
    assert tags["storyreason.judge_prompt"] == "prompts:/storyreason-judge/1"


def test_another_prompt_is_another_version_in_mlflow(mlflow_store: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [judging.prompt(), judging.prompt()] == [1, 1]
    kept = mlflow.genai.load_prompt("prompts:/storyreason-judge/1")
    asked = rubric.messages([], "one story", "another")[0]["content"][-1]["text"]
    assert kept.format(count=0, a="one story", b="another") == asked

    monkeypatch.setattr(rubric, "text", lambda: "Which of {a} and {b} is better? {rubrics}")
    assert [judging.prompt(), judging.prompt()] == [2, 2]

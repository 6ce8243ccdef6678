"""What is served after the gate when others have promoted versions in the meantime."""

import logging
import re
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from prefect.logging import disable_run_logger

from storyreason import dataset, sample
from storyreason.config import RunConfig
from storyreason.errors import ScoringError
from tasks import gate, registry, tracking, waiting
from tasks.evaluation import Subject
from tasks.gate import Promotion
from tasks.results import Evaluated, Pulled
from tests.storyreason.scoring.test_gate import card

CONFIG = RunConfig()
PULLED = Pulled(("data",), md5="0" * 32, rev=None, card="", faulty_test_stories={})


@pytest.fixture
def versions(tmp_path: Path, mlflow_store: None, monkeypatch: pytest.MonkeyPatch) -> dict[str, registry.Version]:
    """Three registered versions, of which the first is the champion."""
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path / "runs"))
    client = mlflow.MlflowClient()
    client.create_registered_model("storyteller")
    for number in "123":
        tags = {f"{tracking.TAG}folder": number, f"{tracking.TAG}register": number}
        client.create_model_version("storyteller", source=str(tmp_path), tags=tags)
    found = {number: registry.version("storyteller", number) for number in "123"}
    registry.move_champion(found["1"])
    return found


def test_a_champion_that_changed_during_the_run_stays(
    versions: dict[str, registry.Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str, str]] = []
    monkeypatch.setattr(gate, "announce_held", lambda *what: told.append(what))
    registry.move_champion(versions["2"])  # by a person, or by another run

    with disable_run_logger():
        promotion, served = gate.to_serve(
            CONFIG, Promotion(True, "box F1 rose by 0.1"), versions["3"], champion=versions["1"]
        )

    assert served == versions["2"]
    assert promotion.granted is False
    assert "the champion changed during this run, from version 1 to version 2: run it again" in promotion.reason
    assert told == [("storyteller", "3", promotion.reason)]
    assert mlflow.MlflowClient().get_model_version("storyteller", "3").description == f"Held: {promotion.reason}"


def test_a_champion_that_was_stored_for_other_machines_during_the_run_has_not_changed(
    versions: dict[str, registry.Version],
) -> None:
    registry.tag_version(versions["1"], artifact="0123.dir 7")
    _, served = gate.to_serve(CONFIG, Promotion(True, "rose"), versions["3"], champion=versions["1"])
    assert served == versions["3"]


def test_version_and_run_say_scores_and_decision(versions: dict[str, registry.Version]) -> None:
    client = mlflow.MlflowClient()
    run_id = client.create_run("0").info.run_id

    gate.describe(replace(versions["3"], run_id=run_id), "box F1 0.557 (0.536 to 0.577), IDF1 0.474", "promoted")

    said = str(client.get_model_version("storyteller", "3").description)
    assert re.fullmatch(r"box F1 0\.557 \(0\.536 to 0\.577\), IDF1 0\.474, promoted \d+ \w{3} \d{4}", said)
    note = client.get_run(run_id).data.tags["mlflow.note.content"]
    assert re.fullmatch(r"version 3 promoted \d+ \w{3} \d{4}: box F1 0\.557 \(0\.536 to 0\.577\), IDF1 0\.474", note)
    tracking.note(run_id, "free: box F1 0.600")  # it is evaluated once more, as the champion
    again = client.get_run(run_id).data.tags["mlflow.note.content"]
    assert re.fullmatch(r"version 3 promoted \d+ \w{3} \d{4}: free: box F1 0\.600", again)


def evaluated(folder: Path, role: str, matched: int, words: int) -> Evaluated:
    """A model that tells forty stories of so many words, each with so many of ten boxes right."""
    file = folder / f"{role}.json"
    file.write_text(card([matched] * 40, length__words=[words] * 40).to_json())
    return Evaluated((), role, "", dict.fromkeys(("free", "grounded"), str(file)), {}, {})


def test_without_a_champion_an_improved_version_is_as_long_as_the_supervised_one_and_not_as_the_base(
    versions: dict[str, registry.Version], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "create_markdown_artifact", lambda *_, **__: None)
    improved = replace(versions["3"], run_id=mlflow.MlflowClient().create_run(tracking.experiment()).info.run_id)
    told = {"base": (1, 4), "supervised": (6, 100), "challenger": (8, 102)}
    scores = {role: evaluated(tmp_path, role, *of) for role, of in told.items()}
    config, base = RunConfig.model_validate({"improve": {"method": "dpo"}}), Subject("base", "base", "0")

    with disable_run_logger():
        decision = gate.gate.fn(config, improved, base, scores, PULLED)

    assert decision.promote, decision.reason
    report = mlflow.artifacts.load_text(f"runs:/{improved.run_id}/gate/report.md")
    assert "words per story, grounded: +2.00 (100.00 to 102.00" in report


def test_a_version_that_no_decision_is_made_on_says_its_scores_once(
    versions: dict[str, registry.Version], tmp_path: Path
) -> None:
    for number in "12":
        registry.describe(versions[number], "Not scored yet.\n\n# Storyteller")
    registry.describe(versions["3"], "box F1 0.9, promoted 26 Nov 2026")
    subjects = [
        Subject("base", "base", "0"),
        Subject.of("supervised", versions["2"], PULLED),
        Subject.of("champion", versions["3"], PULLED),
    ]
    told = {"base": (1, 4), "supervised": (6, 100), "champion": (8, 102)}
    scores = {role: evaluated(tmp_path, role, *of) for role, of in told.items()}

    gate.say_scores(CONFIG, subjects, scores)

    said = {one: str(mlflow.MlflowClient().get_model_version("storyteller", one).description) for one in "123"}
    assert said["1"] == "Not scored yet.\n\n# Storyteller"  # it was not evaluated
    assert said["2"].startswith("box F1 0.600 (") and said["2"].endswith("\n\n# Storyteller")
    assert said["3"] == "box F1 0.9, promoted 26 Nov 2026"


def test_the_challenger_takes_the_place_of_the_champion_that_it_was_compared_with(
    versions: dict[str, registry.Version],
) -> None:
    promoted = Promotion(True, "box F1 rose by 0.1")
    assert gate.to_serve(CONFIG, promoted, versions["3"], champion=versions["1"]) == (promoted, versions["3"])


def test_without_a_promotion_the_current_champion_is_served(versions: dict[str, registry.Version]) -> None:
    held = Promotion(False, "box F1 fell")
    registry.move_champion(versions["2"])
    assert gate.to_serve(CONFIG, held, versions["3"], champion=versions["1"]) == (held, versions["2"])


def test_a_champion_is_not_decided_on_again(versions: dict[str, registry.Version]) -> None:
    with disable_run_logger():
        promotion = gate.decide(CONFIG, versions["1"], champion=versions["1"], subjects=[], scores={}, data=PULLED)
    assert promotion == Promotion(True, "version 1 is the champion already: nothing to decide")


def test_a_champion_whose_move_waits_is_held(versions: dict[str, registry.Version]) -> None:
    waiting.note("storyteller", "2", before="1")
    registry.move_champion(versions["2"])
    with disable_run_logger():
        promotion = gate.decide(CONFIG, versions["2"], champion=versions["2"], subjects=[], scores={}, data=PULLED)
    said = "version 2 was made the champion in MLflow, and waits there to be served in place of version 1"
    assert promotion == Promotion(False, said)


def test_a_version_that_was_taken_down_by_hand_is_not_promoted(versions: dict[str, registry.Version]) -> None:
    registry.move_champion(versions["2"], by_hand=True)
    with disable_run_logger():
        promotion = gate.decide(CONFIG, versions["1"], champion=versions["2"], subjects=[], scores={}, data=PULLED)
    assert not promotion.granted
    assert promotion.reason.startswith("version 1 was taken down by hand for version 2: serve it again with ")


def test_too_few_test_stories_for_a_decision_are_told_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gate, "get_run_logger", lambda: logging.getLogger("run"))
    dataset.write(sample.examples("test", films=2), tmp_path, "test")
    pulled = Pulled((str(tmp_path),), md5="0" * 32, rev=None, card="", faulty_test_stories={})

    gate.check_primary(CONFIG, pulled)
    assert "the gate will not decide on 4 test stories: gate.min_stories is 30" in caplog.text

    caplog.clear()
    gate.check_primary(RunConfig.model_validate({"gate": {"min_stories": 4}}), pulled)
    assert (
        "grounded/strict/grounding/f1 is not controlled: of 4 test stories, 0 have one of another film" in caplog.text
    )


def test_a_primary_score_that_is_text_only_on_the_data_is_refused_by_name_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gate, "get_run_logger", lambda: logging.getLogger("run"))
    # Given stories of different films that all tell the same of the same frames
    first = next(sample.examples("test", films=1))
    dataset.write([replace(first, story_id=f"film{number}-1") for number in range(4)], tmp_path, "test")
    pulled = Pulled((str(tmp_path),), md5="0" * 32, rev=None, card="", faulty_test_stories={})

    with pytest.raises(ScoringError) as error:
        gate.check_primary(RunConfig.model_validate({"gate": {"min_stories": 4}}), pulled)

    assert str(error.value).startswith(
        "gate.primary = 'grounded/strict/grounding/f1' is text-only on this data: the references themselves, which score "
        "1.000, keep 1.000 of it against the references of other films' stories (upper bound 1.000, on 4 stories)"
    )

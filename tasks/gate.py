"""The gate: decide whether a new version takes the champion's place, log the decision, and announce a version on hold."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event

from storyreason import scoring
from storyreason.config import RunConfig
from storyreason.errors import ScoringError
from storyreason.format import answer
from storyreason.generation.config import Decoding
from storyreason.scoring import control, gate_report
from storyreason.scoring.catalogue import BOX_F1, IDF1
from tasks import approval, judging, registry, tracking, views, waiting
from tasks.data import stories_to_tell
from tasks.evaluation import Subject
from tasks.faults import plainly
from tasks.registry import Version
from tasks.results import Evaluated, Pulled

HELD = "storyreason.gate.hold"
"""The event for a version that is not promoted; its resource is `storyreason.model.<name>`."""


@dataclass(frozen=True)
class Promotion:
    """Whether a version is promoted, and why, as a sentence."""

    granted: bool
    reason: str


def check_primary(config: RunConfig, data: Pulled) -> None:
    """Say before a training that the gate will refuse to decide, because there are too few test stories.

    Raises ScoringError if the primary score is text-only on these stories: if the references themselves keep too much of it
    when each is scored against the reference of another film's story (`storyreason.scoring.control`).
    """
    log = get_run_logger()
    told = {one.story_id: one for one in map(scoring.Reference.of, stories_to_tell(config.data, data))}
    if len(told) < config.gate.min_stories:
        log.warning(
            "the gate will not decide on %d test stories: gate.min_stories is %d", len(told), config.gate.min_stories
        )
        return
    name = config.gate.primary.partition("/")[2]
    protocols: tuple[scoring.Protocol, ...] = ("strict", "paper") if name.startswith("paper/") else ("strict",)
    answers = {story_id: answer.join(one.chain_of_thought, one.story) for story_id, one in told.items()}
    card = scoring.score(told.values(), answers, protocols, meteor=False)
    settings = config.gate.confidence, config.gate.resamples, config.gate.seed
    found = control.controlled(card, control.REFERENCE, *settings).get(name)
    if found is None or found.stories < config.gate.min_stories:
        log.warning(
            "%s is not controlled: of %d test stories, %d have one of another film with as many frames",
            config.gate.primary,
            len(told),
            found.stories if found else 0,
        )
    elif not found.depends:
        raise ScoringError(
            f"gate.primary = {config.gate.primary!r} is text-only on this data: the references themselves, which score "
            f"{found.value:.3f}, keep {found.controlled:.3f} of it against the references of other films' stories (upper "
            f"bound {found.high:.3f}, on {found.stories} stories), and a third is the most. Take a score such as "
            f"grounded/{BOX_F1} or grounded/{IDF1}, or add test stories of other films."
        )
    else:
        log.info(
            "%s: the references keep %.3f of %.3f against those of other films' stories",
            config.gate.primary,
            found.controlled,
            found.value,
        )


def decide(
    config: RunConfig,
    challenger: Version,
    champion: Version | None,
    subjects: list[Subject],
    scores: dict[str, Evaluated],
    data: Pulled,
) -> Promotion:
    """Whether a version is promoted: by the gate, and then by approval when the configuration asks for it.

    A judge, if there is one, may hold it back within the gate.
    """
    if champion is not None and champion.number == challenger.number:
        promotion = Promotion(True, f"version {challenger.number} is the champion already: nothing to decide")
        if before := waiting.before(champion.name, champion.number):
            promotion = Promotion(
                False,
                f"version {challenger.number} was made the champion in MLflow, and waits there to be served in place of "
                f"version {before}",
            )
        get_run_logger().info("gate: %s", promotion.reason)
        return promotion
    if taken_down := registry.tags_of(challenger).get(registry.TAKEN_DOWN):
        promotion = Promotion(
            False,
            f"version {challenger.number} was taken down by hand {taken_down}: serve it again with "
            f"`storyreason deploy {challenger.number}`",
        )
        get_run_logger().warning("gate: hold. %s", promotion.reason)
        return promotion
    incumbent = subjects[-1] if champion is not None else subjects[0]
    decoding = cast(Decoding, config.gate.primary.partition("/")[0])
    scored = views.sentence(scores["challenger"].scorecard(decoding))
    decision = gate(config, challenger, incumbent, scores, data)
    promotion = Promotion(decision.promote, decision.reason)
    if promotion.granted and config.gate.approval == "ask":
        promoted, said = approval.ask(config, challenger, gate_report.report(decision))
        promotion = Promotion(promoted, f"{decision.reason}; {said}")
        get_run_logger().info("%s", said)
    describe(challenger, scored, "promoted" if promotion.granted else "held")
    if not promotion.granted:
        announce_held(challenger.name, challenger.number, promotion.reason)
    return promotion


def describe(challenger: Version, scored: str, decision: str) -> None:
    """Say scores and decision where people look for a version: in its description, and in that of its run.

    `box F1 0.557 (0.536 to 0.577), IDF1 0.474, valid answers 1.000, promoted 26 Nov 2026`
    """
    today = datetime.now(UTC).strftime("%-d %b %Y")
    registry.describe(challenger, f"{scored}, {decision} {today}")
    # MLflow's list of runs shows the first 50 characters, and the scores beside them.
    tracking.note(challenger.run_id, f"version {challenger.number} {decision} {today}: {scored}")


def say_scores(config: RunConfig, subjects: list[Subject], scores: dict[str, Evaluated]) -> None:
    """Say its scores in the description of each version that has been evaluated and has none there: not every one is decided
    on."""
    decoding = cast(Decoding, config.gate.primary.partition("/")[0])
    for one in subjects:
        if one.version is None:
            continue
        said = tracking.client().get_model_version(config.model, one.version).description or ""
        if said.startswith(registry.UNSCORED):
            version = registry.version(config.model, one.version)
            registry.describe(version, views.sentence(scores[one.role].scorecard(decoding)))


@task(name="gate")
@plainly()
def gate(
    config: RunConfig, challenger: Version, incumbent: Subject, scores: dict[str, Evaluated], data: Pulled
) -> scoring.Decision:
    """Decide whether the challenger is promoted, and log why. A decision is never cached."""
    decoding = config.gate.primary.partition("/")[0]
    ours, theirs = scores["challenger"], scores[incumbent.role]
    supervised = scores.get("supervised")
    free = (ours.scorecard("free"), theirs.scorecard("free")) if "free" in config.evaluation.decodings else None
    decision = scoring.decide(
        ours.scorecard(decoding),
        theirs.scorecard(decoding),
        config.gate if config.improve.method == "none" else config.gate.of_improved(),
        free=free,
        supervised=supervised.scorecard(decoding) if supervised else None,
        challenger=f"{challenger.name} version {challenger.number}",
        incumbent=incumbent.role if incumbent.version is None else f"{challenger.name} version {incumbent.version}",
        trained_on={"challenger": training_stories(challenger.folder), "incumbent": training_stories(incumbent.folder)},
    )
    decision = judging.asked(config, data, decision, ours, theirs, challenger.run_id)
    report = gate_report.report(decision)
    create_markdown_artifact(report, key="gate-report", description=decision.reason)
    tracking.client().log_text(challenger.run_id, report, "gate/report.md")
    said = "promote" if decision.promote else "hold"
    registry.tag_version(challenger, gate=said, gate_reason=decision.reason[:400])
    get_run_logger().info("gate: %s. %s", said, decision.reason)
    return decision


def to_serve(
    config: RunConfig, promotion: Promotion, challenger: Version, champion: Version | None
) -> tuple[Promotion, Version | None]:
    """The version to serve: the challenger if it is promoted, else the current champion, or, while that waits, the one before.

    The promotion is withdrawn when `champion`, with which the challenger was compared, is no longer the champion, unless the
    challenger itself is: so it is for a run that was killed. Ask while `deployment.alone` keeps others from moving the alias.
    """
    now = registry.alias(config.model, "champion")
    if promotion.granted and _number(now) not in (_number(champion), challenger.number):
        reason = f"the champion changed during this run, from {_name(champion)} to {_name(now)}: run it again"
        registry.describe(challenger, f"Held: {reason}")
        promotion = Promotion(False, reason)
        announce_held(challenger.name, challenger.number, reason)
    if promotion.granted:
        return promotion, challenger
    if now and (before := waiting.before(now.name, now.number)):
        get_run_logger().info("version %s waits to be served: until then it is version %s", now.number, before)
        now = registry.version(now.name, before)
    return promotion, now


def _number(champion: Version | None) -> str | None:
    return champion.number if champion else None


def _name(champion: Version | None) -> str:
    return f"version {champion.number}" if champion else "none"


def announce_held(model: str, number: str, reason: str) -> None:
    """Send the event for a version that is not promoted: an automation may notify somebody."""
    resource = {"prefect.resource.id": f"storyreason.model.{model}", "prefect.resource.name": model}
    emit_event(HELD, resource, payload={"version": f"{model} version {number}", "reason": reason})


def training_stories(folder: str) -> frozenset[str]:
    """The IDs of the stories a model was trained on (`training_stories.json` beside its folder); empty for a base model."""
    path = Path(folder).with_name("training_stories.json")
    return frozenset(json.loads(path.read_text())) if path.is_file() else frozenset()

"""A judge in the gate: it is asked about what would be promoted. Its prompt is in MLflow's prompt registry."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict

from prefect import get_run_logger

from storyreason import judging, runs, scoring
from storyreason.authoring.calls import Author, Budget
from storyreason.authoring.config import AuthoringConfig
from storyreason.config import RunConfig
from storyreason.errors import ConfigError
from storyreason.generation import answering, openai
from storyreason.judging import rubric, veto
from tasks import tracking
from tasks.data import stories_to_tell
from tasks.progress import Progress
from tasks.results import Evaluated, Pulled

PROMPT = "storyreason-judge"
"""What the prompt is called in MLflow."""


def asked(
    config: RunConfig, data: Pulled, decision: scoring.Decision, ours: Evaluated, theirs: Evaluated, run_id: str
) -> scoring.Decision:
    """The decision after a judge was asked, if there is one and the version would be promoted. Replies are kept by content, so
    the same is not paid again. Raises as `Author.ask` does."""
    if not config.judge.endpoint or not decision.promote:
        return decision
    told = [
        {one.story_id: one.answer for one in answering.read(evaluated.answers(config.gate.primary.partition("/")[0]))}
        for evaluated in (ours, theirs)
    ]
    examples = list(stories_to_tell(config.data, data))[: config.judge.stories]
    candidates = veto.candidates(examples, *told)
    settings = AuthoringConfig(**config.judge.model_dump(include={*AuthoringConfig.model_fields}))
    key = os.environ.get("STORYREASON_API_KEY")
    budget = Budget(settings, limit="judge.max_cost")
    author = Author(settings, runs.root() / "judged", budget, key)
    found = judging.judge(author, candidates, config.judge.concurrency, _shown(config.judge.model))
    decided = veto.held(decision, veto.check(candidates, found, config.judge, config.gate))
    _log(run_id, config.judge.model, {**asdict(judging.report(candidates, found)), "spent": asdict(budget.total())})
    get_run_logger().info("%s: %s", veto.NAME, decided.checks[-1].found)
    return decided


def check(config: RunConfig) -> None:
    """Ask the judge's endpoint, if there is one, for its models. Raises EngineError, and ConfigError if it lacks the judge's."""
    chosen = config.judge
    if not chosen.endpoint:
        return
    served = openai.models(chosen.endpoint, os.environ.get("STORYREASON_API_KEY"))
    if served and chosen.model not in served:
        raise ConfigError(
            f"{chosen.endpoint} has no model {chosen.model!r}, only {', '.join(sorted(served))}: name one of them as judge.model."
        )


def _shown(name: str) -> Callable[[int, int], object]:
    shown = Progress("judge", "asking a judge")
    return lambda done, of: shown.report(done, of, f"{name}: {done}/{of} comparisons")


def _log(run_id: str, name: str, found: dict[str, object]) -> None:
    """What the judge found, as an artifact of the challenger's run, with the prompt's version in MLflow."""
    version = prompt()
    said = {"model": name, "prompt": rubric.PROMPT, "prompt_identity": rubric.identity(), "prompt_version": version}
    client = tracking.client()
    client.log_text(run_id, json.dumps({**said, **found}, indent=2) + "\n", "gate/judge.json")
    client.set_tag(run_id, f"{tracking.TAG}judge_prompt", f"prompts:/{PROMPT}/{version}")


def prompt() -> int:
    """The version of the judge's prompt in MLflow's prompt registry; a new one is registered when it says something else."""
    import mlflow

    known = mlflow.genai.load_prompt(
        f"prompts:/{PROMPT}@latest", allow_missing=True, link_to_model=False, cache_ttl_seconds=0
    )
    if known is not None and known.tags.get("identity") == rubric.identity():
        return int(known.version)
    made = mlflow.genai.register_prompt(
        PROMPT, rubric.template(), commit_message=rubric.PROMPT, tags={"identity": rubric.identity()}
    )
    return int(made.version)

"""Score one model on the test split of one data version."""

from typing import Any

from prefect import flow

from flows.retrain import pull, scored, subject
from storyreason.config import RunConfig
from tasks import cards, registry
from tasks.evaluation import Subject
from tasks.steps import plainly, say_how_to_go_on


@flow(name="evaluate", flow_run_name="evaluate-{which}", on_crashed=[say_how_to_go_on])
@plainly()
def evaluate(config: RunConfig, which: str = "champion") -> dict[str, Any]:
    """The scores of a registered version (number or alias), or of the base model (`base`), from the cache if they are there.

    Args:
        config: What the run does, grouped as a preset is.
        which: A version's number or alias in MLflow, or `base`.
    """
    data, base, identity = pull(config)
    version = None if which == "base" else registry.version(config.model, which)
    one = Subject("base", base, identity) if version is None else subject(which, version, data)
    result = scored(config, one, data)
    cards.scorecard({which: result})
    return result

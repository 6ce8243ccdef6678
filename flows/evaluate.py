"""Score one model on the test split of one data version."""

from prefect import flow

from storyreason.config import RunConfig
from tasks import cards, data, evaluation, registry
from tasks.evaluation import Subject
from tasks.faults import plainly, say_how_to_go_on
from tasks.results import Evaluated


@flow(name="evaluate", flow_run_name="evaluate-{which}", on_crashed=[say_how_to_go_on])
@plainly()
def evaluate(config: RunConfig, which: str = "champion") -> Evaluated:
    """Score a registered version (number or alias) or the base model (`base`), or take the scores from the cache.

    Args:
        config: What the run does, grouped as a preset is.
        which: A version's number or alias in MLflow, or `base`.
    """
    pulled, base = data.pull_all(config)
    if which == "base":
        subject = Subject("base", base.folder, base.identity)
    else:
        subject = Subject.of(which, registry.version(config.model, which), pulled)
    result = evaluation.evaluate(config, subject, pulled)
    cards.scorecard({which: result})
    return result

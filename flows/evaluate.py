"""Score one model on the test split of one data version."""

from pathlib import Path

from prefect import flow

from flows import form
from storyreason.config import BaseModelConfig, RunConfig
from storyreason.generation import command, vllm
from tasks import cards, data, evaluation, registry
from tasks.evaluation import Subject
from tasks.faults import cancel_steps, plainly, say_how_to_go_on
from tasks.results import Evaluated


@flow(name="evaluate", flow_run_name=form.run_name, on_crashed=[say_how_to_go_on], on_cancellation=[cancel_steps])
@plainly()
def evaluate(
    which: str = "champion",
    preset: str = "sample",
    data_rev: str | None = None,
    test_stories: form.Stories = None,
    overrides: form.Overrides = None,
) -> Evaluated:
    """Score a registered version, the base model or any other model, or take the scores from the cache.

    Args:
        which: A version's number or alias in MLflow; `base`; or a model's folder or name on the Hub.
        preset: A preset of deploy/presets, or a YAML file: whose data and decoding are used.
        data_rev: The Git revision of the data: a tag, branch or commit.
        test_stories: Score on the first N stories only.
        overrides: Everything else, as `--set` takes it: evaluation.decodings=[free], one in a line.
    """
    config = form.chosen(preset, overrides, data_rev=data_rev, test_stories=test_stories)
    config, which = named(config, which)
    command.check(config.serving, vllm.gpus, evaluates=True)
    version = None if which == "base" else registry.with_weights(config.model, which)
    pulled, base = data.pull_all(config)
    subject = Subject.of_base(base) if version is None else Subject.of(which, version, pulled)
    result = evaluation.evaluate(config, subject, pulled)
    cards.scorecard({which: result})
    return result


def named(config: RunConfig, which: str) -> tuple[RunConfig, str]:
    """What to evaluate: a folder, or a name with a slash as on the Hub, takes the place of the preset's base model."""
    if "/" in which or Path(which).is_dir():
        return config.model_copy(update={"base": BaseModelConfig(name=which)}), "base"
    return config, which

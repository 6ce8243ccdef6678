"""Another family than the sample's goes through the whole pipeline, beside it: tiny untrained models of the real classes."""

import httpx
import pytest
from mlflow import MlflowClient

from storyreason import architecture, model
from storyreason.format import grids
from tests.system.conftest import Project

pytestmark = [pytest.mark.server, pytest.mark.long]
MODEL = "storyteller-smoke"
OTHER, THOUSANDTHS = "qwen3_vl", "thousandths"
SMALL = ("--set", "training.max_steps=4", "--set", "data.test_stories=2", "--set", "generation.max_tokens=16")


def base(project: Project, family: str) -> list[str]:
    """An untrained base of a family, as the docs make one, and how to start from it."""
    project.run("sample", "untrained", "--out", f"build/{family}", "--family", family)
    boxes = THOUSANDTHS if architecture.FAMILIES[family].boxes == THOUSANDTHS else grids.ORIGINAL
    keys = (f"base.name=build/{family}", f"training.boxes={boxes}", f"generation.boxes={boxes}")
    return [word for key in keys for word in ("--set", key)]


def test_qwen3_vl_goes_through_retrain_beside_qwen2_5_vl(project: Project) -> None:
    # Given a version of Qwen2.5-VL
    project.run(*project.retrain(*base(project, "qwen2_5_vl"), *SMALL, "--until", "register"))
    # When a Qwen3-VL is trained, evaluated, registered and deployed
    printed = project.run(*project.retrain(*base(project, OTHER), *SMALL))
    # Then both runs are in one experiment, with the same curves and parameters, of which the base differs
    mlflow = MlflowClient(f"sqlite:///{project.runs}/mlflow/mlflow.db")
    found = mlflow.search_runs(["1"], order_by=["attributes.start_time"])
    first, second = (run for run in found if run.data.tags.get("storyreason.role") == "tuned")
    assert first.info.experiment_id == second.info.experiment_id
    for run in (first, second):
        assert [one.step for one in mlflow.get_metric_history(run.info.run_id, "train/loss")] == [1, 2, 3, 4]
    of_first, of_second = (set(run.data.params.items()) for run in (first, second))
    differing = {key for key, _ in of_first ^ of_second}
    assert differing == {"base.name", "training.boxes", "overrides"}
    names = {"free/strict/grounding/f1", "free/strict/validity/valid"}
    assert names <= second.data.metrics.keys()
    # and the other family's model is what vLLM serves: its build for CPUs runs this class
    assert architecture.FAMILIES[OTHER].told_on_cpu
    champion = mlflow.get_model_version_by_alias(MODEL, "champion")
    assert champion.run_id == second.info.run_id and project.url in printed.strip().splitlines()[-1]
    served = httpx.get(f"{project.url}/healthz", timeout=60, trust_env=False).json()
    assert served["healthy"] and served["registered"] == f"models:/{MODEL}/{champion.version}"
    folder = champion.tags["storyreason.folder"]
    assert model.prompt(str(project.runs / folder))["boxes"] == THOUSANDTHS

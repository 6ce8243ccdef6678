"""Two machines with one MLflow and one S3, and no path in common: one trains and registers, the other evaluates and serves."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from prefect.logging import disable_run_logger

from storyreason import config, model
from tasks import registry, tracking
from tasks.data import Base
from tasks.results import Trained
from tests.adapting import write_result
from tests.stores import S3, s3
from tests.system.conftest import Project, clone, wait_for

pytestmark = [pytest.mark.server, pytest.mark.long]
RETRAIN = (
    "--set", "registry.form=adapter", "--set", "training.mode=lora", "--set", "training.max_steps=2", "--until", "register",
)  # fmt: skip
SERVING = ("--set", "serving.probe=none", "--set", "serving.max_model_len=3072", "--set", "serving.startup_timeout=600")


@dataclass
class Machines:
    trains: Project
    serves: Project
    store: S3

    def stored(self) -> list[str]:
        return self.store.names("models/")

    def register_another(self, patch: pytest.MonkeyPatch) -> str:
        """Register what another training of the first machine would leave, over the same base: a training takes 40 s."""
        for name in ("STORYREASON_RUNS", "STORYREASON_ARTIFACTS", "MLFLOW_TRACKING_URI", *self.store.environment):
            patch.setenv(name, self.trains.environment[name])
        base, place = self.trains.folder / "tiny-base", self.trains.folder.with_name("trained")
        result = write_result(base, place / "result", seed=1)
        (place / "training_stories.json").write_text("[1]")
        run_id = tracking.open_run("train", "another training", "smoke", {}, {})
        trained = Trained((), fingerprint="another training", result=result, run_id=run_id, data_md5="")
        chosen = config.load("smoke", ["training.mode=lora", "registry.form=adapter"])
        with disable_run_logger():
            return registry.register.compute(chosen, Base(str(base), model.load_identity(str(base))), trained).number


@pytest.fixture(scope="module")
def machines(prefect_server: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    place = tmp_path_factory.mktemp("machines")
    with s3() as store:
        shared = {
            **prefect_server,
            **store.environment,
            "MLFLOW_TRACKING_URI": f"sqlite:///{place / 'mlflow.db'}",
            "STORYREASON_MLFLOW_ARTIFACTS": "s3://storyreason/mlflow",
            "STORYREASON_ARTIFACTS": "s3://storyreason/models",
            "OMP_NUM_THREADS": "1",
        }
        found = Machines(clone(place / "one" / "project", shared), clone(place / "two" / "project", shared), store)
        yield found
        found.serves.run("down")
        wait_for(lambda: not found.serves.processes(""), "the end of the second machine", 60)


def test_two_versions_are_stored_and_what_they_share_once_though_one_was_killed(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = machines.trains
    one.kill_when(machines.stored, "the first file in the store", *one.retrain(*RETRAIN))
    assert "storyteller-smoke 1" in one.run(*one.retrain(*RETRAIN))
    first = set(machines.stored())
    assert machines.register_another(monkeypatch) == "2"
    weights = {name for name in set(machines.stored()) - first if not name.endswith(".dir")}
    assert len(weights) == 4  # the adapter, its settings, the card and its stories: nothing of the base
    shutil.move(one.folder, one.folder.with_name("gone"))


def test_the_other_machine_evaluates_deploys_swaps_and_rolls_back(machines: Machines) -> None:
    two = machines.serves
    port = ("--set", f"serving.port={two.port}")
    models = two.runs / "models"

    def partly() -> bool:
        return any(path.is_file() and path.suffix == ".json" for path in models.rglob("*"))

    two.kill_when(partly, "the first fetched file", "fetch", "models:/storyteller-smoke/1")
    two.run("evaluate", "1", "--preset", "smoke", *SERVING[:4], "--set", "data.test_stories=2")
    assert not list(models.glob(".*.part"))
    for version in ("1", "2", "previous"):
        two.run("deploy", version, "--preset", "smoke", *SERVING, *port)
    (base,) = [path for path in (two.runs / "bases").iterdir() if path.is_dir()]
    assert {link.resolve() for link in models.glob("*/model/base")} == {base}
    log = (
        two.runs / "gateway-smoke" if (two.runs / "gateway-smoke").exists() else two.runs / "gateway"
    ) / "gateway.log"
    assert log.read_text().count("serves") >= 3
    assert len([path for path in log.parent.glob("vllm-*.log")]) == 1  # the others came into the engine of the first

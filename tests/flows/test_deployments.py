"""deploy/: the Prefect deployments of work pools are those that `storyreason up` serves, and every setting is documented."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import yaml
from prefect.cli.deploy._models import PrefectYamlModel

from flows import deployments as deployments_
from flows import form, up
from storyreason import config
from storyreason.errors import ConfigError
from tasks import compat, settings
from tasks.data import NEW_VERSION, RESOURCE

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def written() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((REPOSITORY / "deploy/prefect.yaml").read_text())
    return read


def test_prefect_reads_the_file_and_every_flow_is_there(written: dict[str, Any]) -> None:
    deployments = PrefectYamlModel.model_validate(written).deployments

    assert [one.entrypoint for one in deployments] == [f"flows/{n}.py:{n}" for n in deployments_.FLOWS]
    for one in deployments:
        module, _, name = str(one.entrypoint).partition(":")
        assert getattr(import_module(module.removesuffix(".py").replace("/", ".")), name).name == name
    names = [deployments_.retraining("sample"), deployments_.EVALUATE, deployments_.DEPLOY, deployments_.CLEANING]
    assert [one.name for one in deployments] == names


def test_their_parameters_are_those_of_the_sample_preset(written: dict[str, Any]) -> None:
    for one in written["deployments"][:3]:
        assert form.chosen(**one["parameters"], overrides=None) == config.load("sample")


def test_a_retraining_is_started_by_cron_and_by_data_one_at_a_time(written: dict[str, Any]) -> None:
    retrain, default = written["deployments"][0], settings.Settings()

    (schedule,) = retrain["schedules"]
    assert (schedule["cron"], schedule["timezone"]) == (default.cron, default.timezone)
    (trigger,) = retrain["triggers"]
    assert trigger["expect"] == [NEW_VERSION]
    assert trigger["match"]["prefect.resource.id"] == f"{RESOURCE}.*"
    assert retrain["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}


def test_cleaning_is_scheduled_only_when_a_setting_says_when(written: dict[str, Any]) -> None:
    (schedule,) = written["deployments"][3]["schedules"]
    assert schedule == {"cron": deployments_.CLEAN, "timezone": settings.Settings().timezone, "active": False}


def test_the_example_of_the_settings_is_complete_and_shows_the_defaults() -> None:
    lines = (REPOSITORY / ".env.example").read_text().splitlines()
    shown = dict(line.split("=", 1) for line in lines if re.match(r"STORYREASON_\w+=", line))

    expected = {key: value for key, value in settings.Settings().environment().items()}
    assert {key: value.strip('"') for key, value in shown.items()} == {"STORYREASON_RUNS": "runs", **expected}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PREFECT_PORT", "many"),
        ("TIMEZONE", "Mars/Olympus"),
        ("HEARTBEAT", "1"),
        ("MLFLOW_STORE", "postgresql://me@host/mlflow"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"STORYREASON_{name}", value)
    with pytest.raises(ConfigError, match=f"STORYREASON_{name}={value}"):
        settings.read()


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("MLFLOW_STORE", "postgresql://me:S3CRET@host/mlflow", "postgresql://me:***@host/mlflow"),
        ("NOTIFY", 7 * "x" + "://S3CRET", None),
        ("PREFECT_PORT", "99999", "99999"),
    ],
)
def test_no_message_shows_a_secret(
    name: str, value: str, shown: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(f"STORYREASON_{name}", value)
    try:
        said = repr(settings.read())
    except ConfigError as error:
        said = str(error)
    assert "S3CRET" not in said + caplog.text
    assert shown is None or shown in said


def test_a_dotenv_file_is_read_and_the_environment_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("STORYREASON_PREFECT_PORT=4201\nSTORYREASON_MLFLOW_PORT=5001\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STORYREASON_MLFLOW_PORT", "5002")
    monkeypatch.setenv("STORYREASON_PREFECT_PORT", "")  # so that it is put back afterwards
    monkeypatch.delenv("STORYREASON_PREFECT_PORT")

    settings.read_dotenv()

    read = settings.read()
    assert (read.prefect_port, read.mlflow_port, read.gateway_port) == (4201, 5002, 8400)


def test_the_procfile_has_a_line_for_each_part() -> None:
    assert list(up.programs()) == ["prefect", "mlflow", "gateway", "deployments"]
    assert up.programs()["deployments"] == "python -m flows.deployments"


def test_compose_has_every_part_of_the_procfile_and_names_nothing_that_is_not_there() -> None:
    compose = yaml.safe_load((REPOSITORY / "deploy/compose.yaml").read_text())

    services = compose["services"]
    assert set(up.programs()) <= services.keys()
    for name, service in services.items():
        for volume in service.get("volumes", []):
            assert volume.partition(":")[0] in compose["volumes"], name
        assert set(service.get("depends_on", [])) <= services.keys(), name
        context = service.get("build")
        assert context is None or (REPOSITORY / context["dockerfile"]).is_file(), name


def test_kubernetes_has_every_part_of_the_procfile_and_services_find_their_pods() -> None:
    documents = list(yaml.safe_load_all((REPOSITORY / "deploy/kubernetes/storyreason.yaml").read_text()))
    by_kind: dict[str, list[Any]] = {}
    for document in documents:
        by_kind.setdefault(document["kind"], []).append(document)

    claims = {claim["metadata"]["name"] for claim in by_kind["PersistentVolumeClaim"]}
    pods = {}
    for deployment in by_kind["Deployment"]:
        template = deployment["spec"]["template"]
        assert deployment["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
        pods[template["metadata"]["labels"]["app"]] = template["spec"]
        claimed = [v["persistentVolumeClaim"]["claimName"] for v in template["spec"]["volumes"] if "emptyDir" not in v]
        assert claimed and set(claimed) <= claims
    for service in by_kind["Service"]:
        (port,) = service["spec"]["ports"]
        containers = pods[service["spec"]["selector"]["app"]]["containers"]
        assert port["targetPort"] in [p["containerPort"] for c in containers for p in c.get("ports", [])]
    assert {container["name"] for pod in pods.values() for container in pod["containers"]} == set(up.programs())


def test_runs_can_be_cancelled_after_an_outage_of_prefects_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The observer of Prefect's runner, while its server is unreachable for the first nine requests."""
    from prefect._internal import observers
    from prefect.client.schemas.objects import FlowRun

    class Client:
        looks = 0

        async def read_flow_runs(self, **_: Any) -> list[FlowRun]:
            self.looks += 1
            if self.looks < 10:
                raise httpx.ConnectError("away")
            return [run]

    run, client, seen = FlowRun(flow_id=uuid4()), Client(), set()

    async def watch() -> None:
        cancelling = asyncio.Event()

        def on_cancelling(flow_run_id: UUID) -> None:
            seen.add(flow_run_id)
            cancelling.set()

        async with observers.FlowRunCancellingObserver(on_cancelling=on_cancelling, polling_interval=0.01):
            await asyncio.wait_for(cancelling.wait(), 30)

    @contextlib.asynccontextmanager
    async def connected() -> AsyncIterator[Client]:
        yield client

    def away(**_: Any) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(observers, "get_client", connected)
    monkeypatch.setattr(observers, "get_events_subscriber", away)
    monkeypatch.setattr(observers, "critical_service_loop", observers.critical_service_loop)
    compat.let_cancel_after_an_outage()
    asyncio.run(watch())
    assert seen == {run.id}

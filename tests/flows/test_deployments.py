"""deploy/: its parts are those that `storyreason up` starts, and every setting is documented."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import yaml

from flows import deployments, up
from storyreason import config
from storyreason.errors import ConfigError
from tasks import compat, settings

REPOSITORY = Path(__file__).resolve().parents[2]


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


def test_retrainings_whose_names_are_cut_off_differ_in_their_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a window of 1280 pixels Prefect's list shows of a name little more than its base."""
    monkeypatch.setattr(deployments, "_automatic", lambda *_: {})
    made = [one for one in deployments.everything(settings.Settings()) if one.name.startswith("retrain-")]
    tags = {one.name: tuple(one.tags) for one in made}
    assert [tags[f"retrain-qwen2.5-vl-7b-{mode}"] for mode in ("full", "language", "lora")] == [
        ("full",), ("language",), ("lora",)
    ]  # fmt: skip
    assert len({(name[:20], found) for name, found in tags.items()}) == len(tags)


def test_a_preset_of_ones_own_takes_the_place_of_the_built_in_one_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployments, "_automatic", lambda *_: {})
    own = tmp_path / "sample.yaml"
    own.write_text(config.path("sample").read_text())

    made = deployments.everything(settings.Settings(preset=str(own)))

    names = [one.name for one in made]
    assert len(names) == len(set(names))
    (sample,) = (one for one in made if one.name == "retrain-sample")
    assert sample.parameters["preset"] == str(own)


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


def test_composes_deployments_have_every_setting_that_is_not_composes_own() -> None:
    """The address of a part is its service's name in compose, and each has its port and its store there."""
    compose = yaml.safe_load((REPOSITORY / "deploy/compose.yaml").read_text())
    given = compose["services"]["deployments"]["environment"]
    own = {"PREFECT_PORT", "MLFLOW_PORT", "GATEWAY_PORT", "MAIN_ADDRESS", "MLFLOW_STORE", "MLFLOW_ARTIFACTS"}
    assert settings.Settings().environment().keys() - given.keys() == {f"STORYREASON_{name}" for name in own}


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
        claimed = {v["persistentVolumeClaim"]["claimName"] for v in template["spec"]["volumes"] if "emptyDir" not in v}
        assert claimed <= claims
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

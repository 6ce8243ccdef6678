"""The gateway without an engine: access, and what it answers if something is missing."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from storyreason import runs
from storyreason.errors import GatewayError
from storyreason.serving import client, state
from storyreason.serving.config import ServingConfig
from storyreason.serving.gateway import _listen

pytestmark = pytest.mark.server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingConfig]:
    """A gateway that nothing was ever deployed to."""
    config = ServingConfig(port=free_port(), max_body_mb=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORYREASON_RUNS", str(tmp_path_factory.mktemp("runs")))
        client.ensure_running(config)
        yield config
        assert client.stop()
        assert not client.stop()


def get(config: ServingConfig, path: str, **headers: str) -> httpx.Response:
    return httpx.get(client.url(config) + path, headers=headers, trust_env=False)


def test_starting_it_twice_gives_one_gateway(gateway: ServingConfig) -> None:
    before = state.address()
    client.ensure_running(gateway)
    assert state.address() == before


def test_without_a_model_it_is_not_healthy_and_says_what_to_do(gateway: ServingConfig) -> None:
    assert get(gateway, "/healthz").status_code == 503
    refused = get(gateway, "/v1/models")
    assert refused.status_code == 503
    assert refused.json()["error"]["message"] == "No model is deployed: deploy one with `storyreason deploy`."
    status = client.status(gateway)
    assert not status.healthy and status.version is None and status.model == "storyteller"


def test_administration_needs_the_token(gateway: ServingConfig) -> None:
    token = state.folder() / "token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text()) > 40
    for headers in ({}, {"Authorization": "Bearer"}, {"Authorization": "Bearer nonsense"}, {"Authorization": "é"}):
        raw = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
        for method, path in (("GET", "status"), ("POST", "deploy"), ("POST", "stop")):
            refused = httpx.request(method, f"{client.url(gateway)}/admin/{path}", headers=raw, trust_env=False)
            assert refused.status_code == 401, (headers, path)
            assert "token" in refused.json()["error"]["message"]
    assert get(gateway, "/admin/status", Authorization=f"Bearer {state.token()}").status_code == 200


@pytest.mark.parametrize(
    ("folder", "sentence"),
    [
        ("/nowhere/at/all", "There is no model folder /nowhere/at/all"),
        (str(Path(__file__).parent), "There is no model folder .* under .*: name one there, or set serving.models"),
        ("../../etc", "There is no model folder .*etc under "),
        ("{runs}/../../etc", "There is no model folder .* under "),
        ("{runs}/gateway", "is not a model folder: it has no config.json"),
        ("models:/storyteller@champion", "There is no model folder models:/storyteller@champion"),
    ],
)
def test_a_folder_without_a_model_is_rejected_and_recorded(gateway: ServingConfig, folder: str, sentence: str) -> None:
    folder = folder.replace("{runs}", str(runs.root()))
    with pytest.raises(GatewayError, match=f"Version 1 was not deployed. .*{sentence}"):
        client.deploy(gateway, folder=folder, version="1")
    last = (state.folder() / "deployments.jsonl").read_text().splitlines()[-1]
    assert '"error"' in last and folder in last
    assert client.status(gateway).deploying is None


def test_metrics_count_requests(gateway: ServingConfig) -> None:
    get(gateway, "/v1/models")
    get(gateway, "/nothing/" + "x" * 100)
    counted = get(gateway, "/metrics")
    assert counted.headers["content-type"].startswith("text/plain")
    lines = dict(line.rsplit(" ", 1) for line in counted.text.splitlines() if not line.startswith("#"))
    assert float(lines['storyreason_requests_total{route="/v1/models",status="503"}']) >= 1
    assert float(lines['storyreason_requests_total{route="other",status="404"}']) >= 1
    assert lines['storyreason_requests_in_flight{route="/metrics"}'] == "1.0"
    assert (lines["storyreason_engine_up"], lines["storyreason_swaps_total"]) == ("0.0", "0.0")


def test_a_body_beyond_the_limit_is_rejected(gateway: ServingConfig) -> None:
    refused = httpx.post(f"{client.url(gateway)}/v1/chat/completions", content=b" " * (2**20 + 1), trust_env=False)
    assert refused.status_code == 413
    assert "1 MiB" in refused.json()["error"]["message"]


def test_unknown_paths_are_not_found(gateway: ServingConfig) -> None:
    for path in ("/docs", "/openapi.json", "/../etc/passwd", "/v1"):
        assert get(gateway, path).status_code == 404, path


def test_a_second_gateway_of_the_checkout_is_refused(gateway: ServingConfig) -> None:
    elsewhere = gateway.model_copy(update={"port": free_port()})
    with pytest.raises(GatewayError, match=f"is already running .*on port {gateway.port}.*storyreason down"):
        client.ensure_running(elsewhere)


def test_a_port_in_use_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(GatewayError, match=rf"127\.0\.0\.1:{port} .*choose another port.*serving\.port=N"):
            client.ensure_running(ServingConfig(port=port))
    assert not client.stop()


def test_a_gateway_of_another_checkout_is_not_taken_for_ours(
    gateway: ServingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    with pytest.raises(GatewayError, match=f"Port {gateway.port} is in use by something that is not the gateway"):
        client.ensure_running(gateway)


def test_a_gateway_of_another_version_of_the_code_is_named(
    gateway: ServingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_request", lambda *_: {"healthy": True, "devices": None})
    with pytest.raises(GatewayError, match="runs another version of the code: stop it with `storyreason down`"):
        client.status(gateway)


def test_the_command_fails_with_one_line(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("storyreason")), "serve", "--model", str(tmp_path)]
    done = subprocess.run(
        command, env=os.environ | {"STORYREASON_RUNS": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "is not a model folder: it has no config.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_token_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    (state.folder() / "token").write_text("")
    with pytest.raises(GatewayError, match="does not hold a token of 16 characters or more: delete it"):
        state.token()


def test_stopping_a_gateway_that_has_just_exited_succeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    state.write_address(state.Address(1, "127.0.0.1", free_port()))
    with ExitStack() as running:
        running.enter_context(runs.lock(state.folder()))

        def gone(*_: int) -> None:
            running.close()
            raise ProcessLookupError

        monkeypatch.setattr("os.kill", gone)
        assert client.stop()


def test_a_client_that_reads_nothing_is_disconnected() -> None:
    with (
        _listen(ServingConfig(port=free_port())) as listening,
        socket.socket() as asking,
    ):
        listening.listen()
        asking.connect(listening.getsockname())
        with listening.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000


def test_a_gateway_of_its_own_runs_beside_the_checkouts_with_its_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    ours, smoke = ServingConfig(port=free_port()), ServingConfig(port=free_port(), gateway="smoke")
    client.ensure_running(ours)
    before = {path.name: path.read_bytes() for path in state.folder().iterdir() if path.name != "gateway.log"}

    client.ensure_running(smoke)

    assert client.status(ours).version is None and client.status(smoke).version is None
    assert {path.name: path.read_bytes() for path in state.folder().iterdir() if path.name != "gateway.log"} == before
    assert state.address("smoke") != state.address()
    assert state.token("smoke") != state.token()
    assert state.names() == ["", "smoke"]
    assert client.stop()
    assert not client.is_running() and not client.is_running("smoke")

"""A gateway that other machines reach: it needs keys to start, and answers to the names it knows."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from storyreason.errors import GatewayError
from storyreason.serving import gateway, state
from storyreason.serving.config import ServingConfig
from storyreason.serving.gateway import application

ELSEWHERE = ["0.0.0.0", "::", "192.0.2.7", "stories.example.org"]


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    monkeypatch.delenv(state.KEYS, raising=False)


@pytest.mark.parametrize("host", ELSEWHERE)
def test_without_keys_it_does_not_start_where_other_machines_reach_it(host: str) -> None:
    with pytest.raises(
        GatewayError, match=r"listen on .* without API keys.*set serving.open=true if that is what you want"
    ):
        gateway.run(ServingConfig(host=host))
    assert state.address() is None, "it did something before it refused"


@pytest.mark.parametrize("settings", [{"host": "0.0.0.0", "open": True}, {"host": "localhost"}, {"host": "::1"}])
def test_an_open_gateway_is_one_that_was_asked_for(settings: dict[str, Any]) -> None:
    gateway._check_access(ServingConfig(**settings))


def test_keys_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(state.KEYS, "k" * 16)
    gateway._check_access(ServingConfig(host="0.0.0.0"))


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8400", "192.0.2.7.evil.example", "", "1.2.3", "allowed.evil"]
)
def test_a_name_that_it_does_not_know_is_refused(host: str) -> None:
    """Else a page of evil.example, whose name then resolves to this machine, could read what the gateway answers."""
    settings = ServingConfig(host="0.0.0.0", open=True, allowed_hosts=("allowed",), wait_timeout=0)
    client = TestClient(application(settings)[0])
    for path in ("/", "/v1/models", "/metrics"):
        refused = client.get(path, headers={"host": host})
        assert refused.status_code == 403
        assert "add the name to serving.allowed_hosts" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    "host",
    ["stories.example.org", "STORIES.example.org:8400", "pages.example.org", "localhost:1", "192.0.2.7:8400", "[::2]"],
)
def test_known_names_and_addresses_are_served(host: str) -> None:
    settings = ServingConfig(
        host="0.0.0.0",
        allowed_hosts=("Stories.example.org",),
        allowed_origins=("https://pages.example.org",),
    )
    client = TestClient(application(settings)[0])
    assert client.get("/metrics", headers={"host": host}).status_code == 200


def test_probes_may_use_any_name() -> None:
    client = TestClient(application(ServingConfig(host="0.0.0.0"))[0])
    assert client.get("/healthz", headers={"host": "storyreason-jobs.default.svc"}).status_code == 503
    foreign = client.get("/healthz", headers={"host": "x", "origin": "https://evil.example"})
    assert foreign.status_code == 403


@pytest.mark.parametrize("host", ["http://a", "a:1", "a/b", "", "*"])
def test_an_invalid_host_name_is_rejected(host: str) -> None:
    with pytest.raises(ValueError, match=r"is not a host name: write it as stories\.example\.org, without a port"):
        ServingConfig(allowed_hosts=(host,))

"""Every route declares its access, and an undeclared route is not served. No engine is running."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from storyreason import serving
from storyreason.serving import state
from storyreason.serving.config import ServingConfig
from storyreason.serving.gateway import application
from storyreason.serving.routing import Access, route

KEY = "key-of-a-friend-0123456789"

EXPECTED = {
    # what a route asks for, and what an empty object gets once it was shown
    ("GET", "/"): (Access.NOTHING, 200),
    ("GET", "/healthz"): (Access.NOTHING, 503),
    ("GET", "/metrics"): (Access.NOTHING, 200),
    ("GET", "/admin/status"): (Access.TOKEN, 200),
    ("POST", "/admin/deploy"): (Access.TOKEN, 400),
    ("POST", "/admin/rest"): (Access.TOKEN, 422),
    ("POST", "/admin/wake"): (Access.TOKEN, 422),
    ("POST", "/admin/stop"): (Access.TOKEN, 200),
    ("POST", "/v1/stories"): (Access.KEY, 400),
    ("POST", "/v1/stories/read"): (Access.KEY, 400),
    ("GET", "/v1/stories/gallery"): (Access.KEY, 200),
    ("GET", "/v1/stories/gallery/{place:path}"): (Access.KEY, 404),
    ("POST", "/tokenize"): (Access.KEY, 503),
    ("GET", "/v1/models"): (Access.KEY, 503),
    ("POST", "/v1/chat/completions"): (Access.KEY, 503),
    ("POST", "/v1/completions"): (Access.KEY, 503),
    ("POST", "/v1/responses"): (Access.KEY, 503),
    ("POST", "/v1/messages"): (Access.KEY, 503),
    ("*", "/v1/{path:path}"): (Access.KEY, 503),
}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, dict[str, dict[str, str]]]]:
    """A gateway with a key and without a model, and the headers a request can carry."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORYREASON_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.setenv(state.KEYS, KEY)
        app, _ = application(ServingConfig(wait_timeout=0))
        bearer = {"key": KEY, "token": state.token()}
    headers = {name: {"authorization": f"Bearer {secret}"} for name, secret in bearer.items()}
    yield TestClient(app, base_url="http://127.0.0.1"), {"nothing": {}, **headers}


def ask(client: TestClient, method: str, path: str, headers: dict[str, str]) -> Any:
    return client.request(
        "PUT" if method == "*" else method, path.split("{")[0] + "x" * ("{" in path), json={}, headers=headers
    )


def test_the_routes_are_these() -> None:
    assert {(one.method, one.path): one.access for one in serving.routes()} == {
        place: access for place, (access, _) in EXPECTED.items()
    }
    assert all(one.summary.endswith(".") for one in serving.routes())


@pytest.mark.parametrize("place", [(one.method, one.path) for one in serving.routes()], ids=" ".join)
@pytest.mark.parametrize("secret", ["nothing", "key", "token"])
def test_a_route_answers_requests_with_the_declared_access(
    shown: tuple[TestClient, dict[str, dict[str, str]]], place: tuple[str, str], secret: str
) -> None:
    client, headers = shown
    access, status = EXPECTED[place]
    order = list(Access)
    opens = order.index(Access(secret)) >= order.index(access)
    assert ask(client, *place, headers[secret]).status_code == (status if opens else 401)


def test_an_undeclared_route_is_not_served(shown: tuple[TestClient, dict[str, dict[str, str]]]) -> None:
    client, headers = shown
    assert not client.app.add_api_route("/leak", lambda: "secret")  # type: ignore[attr-defined]
    assert not client.app.add_api_route("/admin/leak", lambda: "secret")  # type: ignore[attr-defined]
    for secret, status in (("nothing", 401), ("key", 401), ("token", 404)):
        assert client.get("/leak", headers=headers[secret]).json() == {"error": {"message": "Not Found", "code": 404}}
        assert client.get("/admin/leak", headers=headers[secret]).status_code == status


def test_a_route_cannot_be_declared_without_its_access() -> None:
    with pytest.raises(TypeError, match="access"):
        route("GET", "/leak")  # type: ignore[call-arg]


def test_a_websocket_is_closed(shown: tuple[TestClient, dict[str, dict[str, str]]]) -> None:
    from starlette.websockets import WebSocketDisconnect

    client, headers = shown
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/healthz", headers=headers["token"]):
        pass

"""A gateway before an engine that somebody else runs."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from storyreason import dataset
from storyreason.errors import EngineError, GatewayError
from storyreason.format.answer import join
from storyreason.generation.config import EngineConfig, GenerationConfig
from storyreason.pictures import data_url
from storyreason.serving import external, state
from storyreason.serving.config import ServingConfig
from storyreason.serving.engines import Deployed, EnginePool, RunningEngine
from storyreason.serving.external import ExternalEngine
from tests.storyreason.generation.endpoint import Reply, answer, endpoint, refusal
from tests.storyreason.serving.scripted import gateway


@dataclass
class Elsewhere:
    """Somebody else's engine: its address, and the names it serves the model under."""

    url: str = ""
    names: list[str] = field(default_factory=lambda: ["storyteller", "storyteller-7"])


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, examples: list[dataset.Example]) -> Iterator[Elsewhere]:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    monkeypatch.setattr(external, "ASK_EVERY", 0.05)
    engine = Elsewhere()
    told = join(examples[0].chain_of_thought, examples[0].story)
    with endpoint(lambda _: answer(told), lambda: engine.names) as engine.url:
        yield engine


def settings(url: str) -> EngineConfig:
    return EngineConfig(external=url, startup_timeout=1)


async def deployed(pool: EnginePool, number: str, engine: EngineConfig, images: tuple[bytes, ...] = ()) -> Deployed:
    folder = str(state.folder().parent / "model")
    registered = f"models:/storyteller/{number}"
    return await pool.deploy(folder, number, None, images, GenerationConfig(), engine, registered)


async def until(pool: EnginePool, healthy: bool) -> None:
    async with asyncio.timeout(60):
        while pool.healthy() != healthy:
            await asyncio.sleep(0.02)


def test_it_serves_once_the_version_answers_and_tells(elsewhere: Elsewhere, examples: list[dataset.Example]) -> None:
    async def story() -> None:
        pool = EnginePool(ServingConfig())
        outcome = await deployed(pool, "7", settings(elsewhere.url), examples[0].images)
        assert outcome.changed and outcome.story and pool.healthy()
        async with pool.engine() as engine:
            assert engine.server.url == elsewhere.url and engine.server.name == "storyteller"
        assert not (await deployed(pool, "7", settings(elsewhere.url))).changed
        await pool.stop()

    asyncio.run(story())


def test_another_version_than_the_registrys_is_refused_and_the_old_one_serves_on(elsewhere: Elsewhere) -> None:
    async def story() -> None:
        pool = EnginePool(ServingConfig())
        await deployed(pool, "7", settings(elsewhere.url))
        with pytest.raises(
            GatewayError, match=r"serves storyteller, storyteller-7, not storyteller-8: .*serving\.roll"
        ):
            await deployed(pool, "8", settings(elsewhere.url))
        assert pool.healthy() and pool.served is not None and pool.served.version == "7"
        await pool.stop()

    asyncio.run(story())


def test_when_it_is_rolled_or_down_requests_wait_until_it_serves_the_version_again(elsewhere: Elsewhere) -> None:
    async def story() -> None:
        pool = EnginePool(ServingConfig(restart_pause=0.1))
        await deployed(pool, "7", settings(elsewhere.url))
        keeping = asyncio.create_task(pool.keep())
        elsewhere.names = ["storyteller", "storyteller-9"]
        await until(pool, healthy=False)

        async def ask() -> str:
            async with pool.engine() as engine:
                return engine.server.url

        asking = asyncio.create_task(ask())
        await asyncio.sleep(0.2)
        assert not asking.done()
        elsewhere.names = ["storyteller", "storyteller-7"]
        assert await asking == elsewhere.url and pool.restarts == 1
        keeping.cancel()
        await pool.stop()

    asyncio.run(story())


def test_a_roll_that_was_seen_as_an_outage_does_not_keep_the_next_one_from_ending(elsewhere: Elsewhere) -> None:
    """The version that is rolled away is waited for, as in an outage, until the deployment of the next one is done."""

    async def story() -> None:
        pool = EnginePool(ServingConfig(restart_pause=0.1))
        patient = EngineConfig(external=elsewhere.url, startup_timeout=600)

        await deployed(pool, "7", patient)
        (first,) = pool._servers
        keeping = asyncio.create_task(pool.keep())
        elsewhere.names = ["storyteller", "storyteller-8"]
        await until(pool, healthy=False)
        async with asyncio.timeout(60):
            while not pool._servers - {first}:  # the wait for version 7 begins
                await asyncio.sleep(0.02)
        await deployed(pool, "8", patient)
        assert pool.healthy()

        elsewhere.names = ["nobody"]
        await until(pool, healthy=False)
        elsewhere.names = ["storyteller", "storyteller-8"]
        await until(pool, healthy=True)
        assert pool.problem is None and pool.restarts == 2
        keeping.cancel()
        await pool.stop()

    asyncio.run(story())


def test_one_that_is_unreachable_is_named(elsewhere: Elsewhere) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(EngineError, match=rf"{url} \(serving\.external\) does not list its models"):
        ExternalEngine(settings(url), "storyteller-7").start()


@pytest.mark.parametrize(("names", "serves"), [(["llama-7"], "llama-7"), ([], "nothing")])
def test_another_model_is_refused_and_what_to_do_is_said(elsewhere: Elsewhere, names: list[str], serves: str) -> None:
    elsewhere.names = names
    sentence = rf"serves {serves}, not storyteller and storyteller-7: .*--served-model-name storyteller storyteller-7"
    with pytest.raises(EngineError, match=sentence):
        ExternalEngine(settings(elsewhere.url), "storyteller-7").start()


def test_a_model_that_is_not_registered_needs_only_the_common_name(elsewhere: Elsewhere) -> None:
    elsewhere.names = ["storyteller"]
    engine = ExternalEngine(settings(elsewhere.url), None)
    engine.start()
    assert engine.alive()
    engine.stop()
    assert not engine.alive()


def test_a_request_that_fails_in_one_that_ends_waits_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, examples: list[dataset.Example]
) -> None:
    monkeypatch.setattr(external, "ASK_EVERY", 60.0)
    names, failed = ["storyteller", "storyteller-7"], threading.Event()

    def reply(_: dict[str, Any]) -> Reply:
        if failed.is_set():
            return answer("Once")
        failed.set()
        names.clear()  # soon nothing listens there
        threading.Timer(1, names.extend, [["storyteller", "storyteller-7"]]).start()
        return refusal(500, "The engine is dead.")

    with (
        endpoint(reply, lambda: names) as url,
        gateway(url, tmp_path, restart_pause=0.1, wait_timeout=60) as (address, pool),
    ):
        settings_of = {**ServingConfig().engine(), **settings(url).engine(), "startup_timeout": 60}
        pool.served = state.Served("model", "7", None, "", settings_of, registered="models:/storyteller/7")
        serving = ExternalEngine(settings(url), "storyteller-7")
        serving._missed = 0
        pool._engine = RunningEngine(serving)
        body = {"model": "storyteller", "messages": [{"role": "user", "content": "Once?"}]}
        answered = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60, trust_env=False)
    assert answered.status_code == 200, answered.text


@pytest.mark.parametrize("status", [503, 500])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/stories"])
def test_requests_that_meet_one_that_ends_wait_until_it_takes_requests_again(
    path: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, examples: list[dataset.Example]
) -> None:
    """As it is rolled: a process that ends still lists its models, and refuses what it is asked."""
    monkeypatch.setattr(external, "ASK_EVERY", 60.0)  # the watch does not see it in time
    told, refusals = join(examples[0].chain_of_thought, examples[0].story), [refusal(status, "It ends.")] * 3

    def reply(_: dict[str, Any]) -> Reply:
        return refusals.pop() if refusals else answer(told)

    body = {
        "/v1/chat/completions": {"model": "storyteller", "messages": [{"role": "user", "content": "Once?"}]},
        "/v1/stories": {"images": [data_url(examples[0].images[0])], "decoding": "free"},
    }[path]
    with (
        endpoint(reply, lambda: ["storyteller", "storyteller-7"]) as url,
        gateway(url, tmp_path, restart_pause=0.1, wait_timeout=60) as (address, pool),
    ):
        settings_of = {**ServingConfig().engine(), **settings(url).engine()}
        pool.served = state.Served("model", "7", None, "", settings_of, registered="models:/storyteller/7")
        serving = ExternalEngine(settings(url), "storyteller-7")
        serving._missed = 0  # it answered until now
        pool._engine = RunningEngine(serving)
        answered = httpx.post(f"{address}{path}", json=body, timeout=60, trust_env=False)
    assert answered.status_code == 200, answered.text
    assert not refusals and not serving.alive()


def test_a_connection_is_not_kept_so_that_the_next_request_goes_where_the_address_then_leads(
    elsewhere: Elsewhere, tmp_path: Path
) -> None:
    asked: list[str | None] = []

    class Noting(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(self.headers["connection"])
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Noting) as service, gateway("", tmp_path) as (address, pool):
        threading.Thread(target=service.serve_forever, daemon=True).start()
        serving = ExternalEngine(settings(f"http://127.0.0.1:{service.server_port}"), None)
        serving._missed = 0  # it answered until now
        pool._engine = RunningEngine(serving)
        for _ in range(2):
            assert httpx.get(f"{address}/v1/anything", timeout=60, trust_env=False).status_code == 200
        service.shutdown()
    assert asked == ["close", "close"]

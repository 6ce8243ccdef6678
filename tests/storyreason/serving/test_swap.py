"""The gateway with engines: models are swapped, killed and broken while clients must notice nothing.

The tests depend on their order: an engine takes a minute to start, so each continues where the previous one stopped.
With 300 stories during the swaps instead of the suite's 100:

    STORIES=300 .venv/bin/python -m pytest tests/storyreason/serving/test_swap.py
"""

import contextlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from openai.types.chat import ChatCompletionChunk

from storyreason import generation
from storyreason.errors import GatewayError
from storyreason.format import answer, rules
from storyreason.generation import GenerationConfig
from storyreason.generation.openai import Endpoint
from storyreason.pictures import data_url
from storyreason.serving import client, state
from storyreason.serving.config import ServingConfig
from tests.conftest import write_untrained
from tests.storyreason.serving.test_gateway import free_port
from tests.storyreason.test_guard import wait_for

pytestmark = pytest.mark.server
SHORT = GenerationConfig(max_tokens=8)
STORIES = int(os.environ.get("STORIES", "100"))


@pytest.fixture(scope="module")
def gateway(serving: ServingConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingConfig]:
    config = serving.model_copy(update={"port": free_port()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORYREASON_RUNS", str(tmp_path_factory.mktemp("runs")))
        client.ensure_running(config)
        yield config
        client.stop()
        wait_for(lambda: not engines(), 30)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second model, which writes other nonsense."""
    return write_untrained(tmp_path_factory.mktemp("other") / "model", seed=1)


def engines() -> list[psutil.Process]:
    """The vLLM processes that log into this gateway's folder or were started by one that does."""
    log_folder = str(state.folder())
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "vllm" in " ".join(process.cmdline()).lower():
                output = Path(f"/proc/{process.pid}/fd/1").readlink() if process.status() != "zombie" else Path()
                if str(output).startswith(log_folder):
                    found.append(process)
    return found


def chat(frames: tuple[bytes, ...], text: str = "Create a story.") -> list[Any]:
    pictures = [{"type": "image_url", "image_url": {"url": data_url(frame)}} for frame in frames]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}]


class Listeners:
    """Clients that stream one story after another; every story must arrive complete and from one engine.

    `pause` (seconds, between stories) leaves some CPU time to an engine that is starting.
    """

    def __init__(
        self, config: ServingConfig, frames: tuple[bytes, ...], count: int, tokens: int = 30, pause: float = 0.0
    ) -> None:
        self.stories: list[str] = []
        self._tokens = tokens
        self._pause = pause
        self._stopping = threading.Event()
        self._openai = openai.OpenAI(base_url=f"{client.url(config)}/v1", api_key="none", max_retries=0, timeout=900)
        self._frames = frames
        self._pool = ThreadPoolExecutor(count)
        self._listening = [self._pool.submit(self._listen) for _ in range(count)]

    def _listen(self) -> None:
        while not self._stopping.is_set():
            text, finished, ids = "", None, set()
            chunk: ChatCompletionChunk
            for chunk in self._openai.chat.completions.create(
                model="storyteller",
                messages=chat(self._frames),
                stream=True,
                temperature=0,
                max_tokens=self._tokens,
                extra_body={"ignore_eos": True},
            ):
                ids.add(chunk.id)
                text += chunk.choices[0].delta.content or ""
                finished = chunk.choices[0].finish_reason or finished
            assert finished == "length" and len(ids) == 1
            self.stories.append(text)
            self._stopping.wait(self._pause)

    def hear(self, more: int) -> None:
        """Wait until that many more stories were received."""
        goal = len(self.stories) + more
        wait_for(lambda: len(self.stories) >= goal or any(one.done() for one in self._listening), 900)

    def __enter__(self) -> "Listeners":
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._pool.shutdown()
        self._openai.close()
        for one in self._listening:
            one.result()  # raises what went wrong for any of them


def test_the_first_model_is_deployed_and_reported(
    gateway: ServingConfig, untrained: Path, frames: tuple[bytes, ...]
) -> None:
    story = client.deploy(gateway, folder=untrained, version="1", images=frames, generation=SHORT, run_id="first")

    assert story
    health = httpx.get(f"{client.url(gateway)}/healthz", trust_env=False)
    assert health.status_code == 200
    assert (health.json()["version"], health.json()["folder"]) == ("1", str(untrained))
    record = json.loads((state.folder() / "deployments.jsonl").read_text())
    assert (record["version"], record["run_id"], record["story"]) == ("1", "first", story)


def test_deploying_the_served_model_changes_nothing(gateway: ServingConfig, untrained: Path) -> None:
    before = {process.pid for process in engines()}
    assert client.deploy(gateway, folder=untrained, version="1") is None
    assert {process.pid for process in engines()} == before


def test_the_openai_client_streams_a_story_with_five_images(gateway: ServingConfig, frames: tuple[bytes, ...]) -> None:
    assert len(frames) == 5
    with openai.OpenAI(base_url=f"{client.url(gateway)}/v1", api_key="none") as teller:
        assert [model.id for model in teller.models.list()] == ["storyteller"]
        arguments: dict[str, Any] = {
            "model": "storyteller",
            "messages": chat(frames),
            "temperature": 0,
            "max_tokens": 30,
        }
        whole = teller.chat.completions.create(**arguments).choices[0].message.content
        chunks = [chunk.choices[0].delta.content for chunk in teller.chat.completions.create(**arguments, stream=True)]
    assert len(chunks) > 10
    assert "".join(filter(None, chunks)) == whole


def test_telling_under_grammars_goes_through_the_gateway(gateway: ServingConfig, frames: tuple[bytes, ...]) -> None:
    url, sizes = client.url(gateway), [(196, 112)] * 2
    assert generation.openai.count_tokens(url, "storyteller", "## Image 1") == 2
    told = generation.grounded.tell(Endpoint(url, "storyteller"), frames[:2], GenerationConfig(max_tokens=1200))
    assert rules.is_valid(rules.check(answer.read(told.text), sizes))

    body = {"images": [data_url(frame) for frame in frames[:2]], "max_tokens": 1200}
    posted = httpx.post(f"{url}/v1/stories", json=body, timeout=600, trust_env=False).json()
    assert (posted["valid"], posted["version"], posted["answer"]) == (True, "1", told.text)


def test_errors_of_the_engine_pass_through(gateway: ServingConfig) -> None:
    url = f"{client.url(gateway)}/v1/chat/completions"
    refused = httpx.post(url, json={"model": "nobody", "messages": []}, timeout=60, trust_env=False)
    assert refused.status_code in (400, 404)
    assert httpx.post(url, content=b"{", timeout=60, trust_env=False).status_code in (400, 422)
    assert httpx.get(f"{client.url(gateway)}/v1/nothing", timeout=60, trust_env=False).status_code == 404


def test_closing_the_connection_cancels_the_request(gateway: ServingConfig, frames: tuple[bytes, ...]) -> None:
    body = {"model": "storyteller", "messages": chat(frames), "max_tokens": 2500, "ignore_eos": True}
    url = f"{client.url(gateway)}/v1/chat/completions"

    with httpx.stream("POST", url, json={**body, "stream": True}, timeout=60, trust_env=False) as response:
        lines = response.iter_lines()  # kept: the response closes when its reader is gone
        next(lines)
        assert client.status(gateway).requests == 1
    wait_for(lambda: client.status(gateway).requests == 0, 60)

    with pytest.raises(httpx.ReadTimeout):  # one that is not streamed, and of which nothing has come yet
        httpx.post(url, json=body, timeout=httpx.Timeout(60, read=1), trust_env=False)
    wait_for(lambda: client.status(gateway).requests == 0, 60)


def test_a_broken_model_leaves_the_old_one_serving(
    gateway: ServingConfig, untrained: Path, frames: tuple[bytes, ...], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(untrained, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")

    with Listeners(gateway, frames, count=1) as listeners:
        with pytest.raises(
            GatewayError, match=r"Version 2 was not deployed\. vLLM did not start on .*Version 1 keeps serving"
        ):
            client.deploy(gateway, folder=broken, version="2", images=frames, generation=SHORT)
        listeners.hear(2)

    assert client.status(gateway).version == "1"


def test_two_swaps_under_streaming_clients_cut_no_request(
    gateway: ServingConfig, untrained: Path, other: Path, frames: tuple[bytes, ...]
) -> None:
    old = {process.pid for process in engines()}
    clients = 8
    with Listeners(gateway, frames[:1], clients, tokens=8, pause=0.5) as listeners, ThreadPoolExecutor(1) as pool:
        listeners.hear(clients)
        first = set(listeners.stories)
        deploying = pool.submit(client.deploy, gateway, folder=other, version="2", images=frames, generation=SHORT)
        wait_for(lambda: client.status(gateway).deploying == "2")

        body = {"folder": str(other), "version": "4"}
        token = {"Authorization": f"Bearer {state.token()}"}
        at_once = httpx.post(
            f"{client.url(gateway)}/admin/deploy", json=body, headers=token, timeout=60, trust_env=False
        )
        assert at_once.status_code == 409 and "Version 2 is being deployed" in at_once.json()["error"]["message"]

        deploying.result()
        swapped = len(listeners.stories)
        listeners.hear(4 * clients)
        second = set(listeners.stories[swapped + clients :])

        client.deploy(gateway, folder=untrained, version="3", images=frames, generation=SHORT)
        swapped_back = len(listeners.stories)
        listeners.hear(max(4 * clients, STORIES - swapped_back))
        third = set(listeners.stories[swapped_back + clients :])

    assert len(listeners.stories) >= STORIES
    assert len(first) == len(second) == 1 and first == third != second
    assert set(listeners.stories) == first | second  # no story is of two models
    assert client.status(gateway).version == "3"
    assert not old & {process.pid for process in engines()}
    counted = httpx.get(f"{client.url(gateway)}/metrics", timeout=60, trust_env=False).text
    assert "\nstoryreason_swaps_total 2.0\n" in counted and 'version="3"' in counted


def test_a_killed_engine_is_restarted(gateway: ServingConfig, frames: tuple[bytes, ...]) -> None:
    killed = next(process for process in engines() if "EngineCore" in " ".join(process.cmdline()))

    killed.kill()

    # A request that comes meanwhile waits, and is answered by the engine's successor.
    body = {"model": "storyteller", "messages": chat(frames), "max_tokens": 4}
    url = f"{client.url(gateway)}/v1/chat/completions"
    wait_for(lambda: not client.status(gateway).healthy, 60)
    answer = httpx.post(url, json=body, timeout=600, trust_env=False)
    assert answer.status_code == 200, answer.text
    assert client.status(gateway).healthy and client.status(gateway).version == "3"
    counted = httpx.get(f"{client.url(gateway)}/metrics", timeout=60, trust_env=False).text
    assert "\nstoryreason_engine_restarts_total 1.0\n" in counted


def test_a_gateway_killed_with_all_that_guards_its_engine_leaves_none_and_a_new_one_serves_the_same_model(
    gateway: ServingConfig, untrained: Path, frames: tuple[bytes, ...]
) -> None:
    address = state.address()
    assert address is not None
    core = [process for process in engines() if "EngineCore" in " ".join(process.cmdline())]
    guards = [process for process in engines() if process not in core]
    assert len(core) == 1 and len(guards) == 3  # two guards, and vLLM's first process

    for process in guards:
        process.kill()
    os.kill(address.pid, signal.SIGKILL)

    wait_for(lambda: not engines(), 30)
    client.ensure_running(gateway)
    status = client.status(gateway)
    assert (status.version, status.folder) == ("3", str(untrained))
    with openai.OpenAI(base_url=f"{client.url(gateway)}/v1", api_key="none", timeout=600) as teller:
        told = teller.chat.completions.create(model="storyteller", messages=chat(frames), max_tokens=4)
    assert told.choices[0].message.content
    assert client.status(gateway).healthy

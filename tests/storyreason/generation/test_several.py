"""Several engines for one evaluation: their devices, and that two tell what one tells. Then the two, which take a while to
start, serve as one that somebody else runs and rolls behind the gateway."""

import contextlib
import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
from prefect.logging import disable_run_logger

from storyreason import dataset, generation
from storyreason.config import RunConfig
from storyreason.errors import EngineError
from storyreason.generation import GenerationConfig, command, several, vllm
from storyreason.generation.config import EngineConfig
from storyreason.generation.vllm import NAME, VllmServer
from storyreason.serving import client
from storyreason.serving.config import ServingConfig
from tasks.deployment import _roll
from tasks.registry import Version
from tests.storyreason.serving.test_gateway import free_port
from tests.storyreason.serving.test_swap import SHORT, Listeners, chat
from tests.storyreason.test_guard import wait_for


@pytest.mark.parametrize(
    ("settings", "gpus", "devices"),
    [
        ({}, 8, [None]),
        ({"devices": "3"}, 8, ["3"]),
        ({"data_parallel": 2}, 2, ["0", "1"]),
        ({"data_parallel": 2, "tensor_parallel": 2, "devices": "4,5,6,7"}, 8, ["4,5", "6,7"]),
        ({"data_parallel": 2}, 0, [None, None]),
    ],
)
def test_each_engine_has_devices_of_its_own(
    settings: dict[str, object], gpus: int, devices: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(vllm, "gpus", lambda: gpus)
    monkeypatch.setattr(VllmServer, "start", lambda _: None)
    with several.engines("owner/model", EngineConfig.model_validate(settings), Path("vllm.log")) as engines:
        shares = [one.config for one in engines]
    assert [one.devices for one in shares] == devices
    assert all(one.data_parallel == 1 for one in shares)


@pytest.mark.parametrize("given", ["2,3", "GPU-5ac3, GPU-8e1f", "6,7,-1,0"])
def test_engines_stay_on_the_gpus_that_their_process_was_given(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    monkeypatch.setattr(vllm, "gpus", lambda: 2)  # as torch counts them
    monkeypatch.setattr(VllmServer, "start", lambda _: None)
    with several.engines("owner/model", EngineConfig(data_parallel=2), Path("vllm.log")) as engines:
        seen = [one._environment()["CUDA_VISIBLE_DEVICES"] for one in engines]
    assert seen == given.replace(" ", "").split(",")[:2]


def test_without_gpus_an_evaluation_may_have_two_engines_and_a_gateway_not() -> None:
    two = EngineConfig(data_parallel=2)
    command.check(two, lambda: 0, evaluates=True)
    with pytest.raises(EngineError, match="needs 2 GPUs, and this machine has none"):
        command.check(two, lambda: 0)
    with pytest.raises(EngineError, match="needs 4 GPUs, and this machine has none"):
        command.check(EngineConfig(data_parallel=2, tensor_parallel=2), lambda: 0, evaluates=True)


class Somebodys(VllmServer):
    """An engine as somebody else runs it: it says which version it serves, and tells its stories to the end before it ends."""

    def _command(self) -> list[str]:
        version = {"vllm": 1, "vllm-2": 2}[self.log.stem]
        return [*super()._command(), "--served-model-name", NAME, f"{NAME}-{version}", "--shutdown-timeout", "300"]


class Service(socketserver.ThreadingTCPServer):
    """One address before the engine whose port a file names. Like a service of Kubernetes, it leads new connections elsewhere
    once that changes, and leaves those that stand."""

    daemon_threads = True

    def __init__(self, ready: Path) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.ready = ready
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever).start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class Connection(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Service)
        with (
            contextlib.suppress(ConnectionError),
            socket.create_connection(("127.0.0.1", int(self.server.ready.read_text()))) as engine,
        ):
            back = threading.Thread(target=_pass_on, args=(engine, self.request))
            back.start()
            _pass_on(self.request, engine)
            back.join()


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while sent := one.recv(65536):
            other.sendall(sent)
        other.shutdown(socket.SHUT_WR)


def telling(config: ServingConfig, frames: tuple[bytes, ...], tokens: int) -> Iterator[str]:
    """The pieces of one long story, which must arrive whole."""
    arguments: dict[str, Any] = {"model": NAME, "messages": chat(frames), "stream": True, "max_tokens": tokens}
    finished = None
    with openai.OpenAI(base_url=f"{client.url(config)}/v1", api_key="none", max_retries=0, timeout=900) as teller:
        for chunk in teller.chat.completions.create(**arguments, extra_body={"ignore_eos": True}):
            finished = chunk.choices[0].finish_reason or finished
            yield chunk.choices[0].delta.content or ""
    assert finished == "length"


@pytest.fixture(scope="module")
def two(
    untrained: Path, serving: ServingConfig, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[VllmServer]]:
    """Two engines for one evaluation, which also serve as two versions."""
    config = serving.model_copy(update={"data_parallel": 2, "dtype": "float32"})
    logs = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(several, "VllmServer", Somebodys)
        with several.engines(untrained, config, logs / "vllm.log") as engines:
            yield engines
    assert {path.name for path in logs.glob("*.log")} == {"vllm.log", "vllm-2.log"}
    assert not any(engine.alive() for engine in engines)


@pytest.mark.server
@pytest.mark.long
def test_two_engines_tell_in_float32_what_one_tells(
    vllm_server: VllmServer, two: list[VllmServer], examples: list[dataset.Example], tmp_path: Path
) -> None:
    asked, stories = GenerationConfig(max_tokens=40, concurrency=1), examples[:6]
    one = generation.predict(vllm_server.url, vllm_server.name, stories, asked, tmp_path / "one.jsonl")
    urls = [engine.url for engine in two]
    told = generation.predict(urls, two[0].name, stories, asked, tmp_path / "two.jsonl")
    assert len(set(urls)) == 2 and told == one


@pytest.mark.server
@pytest.mark.long
def test_an_engine_of_somebody_elses_is_rolled_and_drained_and_no_client_notices(
    two: list[VllmServer],
    untrained: Path,
    serving: ServingConfig,
    frames: tuple[bytes, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The preset's command rolls it while clients stream. The old engine has a long story to end."""
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    old, new = two
    (tmp_path / "ready").write_text(str(old.port))
    assert old._process is not None
    roll = (
        f'cd {tmp_path} && test "$STORYREASON_NAMES" = "{NAME} {NAME}-2" && echo {new.port} > next && mv next ready && '
        f"sleep 3 && kill -TERM {old._process.pid}"  # what was on its way arrives, as with a `preStop` of Kubernetes
    )
    with Service(tmp_path / "ready") as service, contextlib.ExitStack() as stack:
        config = serving.model_copy(update={"port": free_port(), "external": service.url})
        client.ensure_running(config)
        stack.callback(client.stop)
        deploy = partial(client.deploy, config, folder=untrained, images=frames[:1], generation=SHORT)
        deploy(version="1", registered="models:/storyteller/1")

        with Listeners(config, frames[:1], 3, tokens=8) as listeners, ThreadPoolExecutor(1) as pool:
            long = telling(config, frames[:1], tokens=1000)
            next(long)
            deploying = pool.submit(deploy, version="2", registered="models:/storyteller/2")
            wait_for(lambda: client.status(config).deploying == "2")
            listeners.hear(4)
            assert client.status(config).deploying == "2" and not deploying.done()  # it waits for the version

            rolling = config.model_copy(update={"roll": roll})
            with disable_run_logger():
                _roll(RunConfig(serving=rolling), Version("storyteller", "2", str(untrained), "", "", ""))
            deploying.result()
            listeners.hear(4)
            assert len([*long]) > 500
        wait_for(lambda: not old.alive(), 300)
        status = client.status(config)
        assert (status.healthy, status.version, status.registered) == (True, "2", "models:/storyteller/2")
    assert re.search(r"draining in-flight requests count=[1-9]", old.log.read_text())

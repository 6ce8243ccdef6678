"""Adapters are swapped in a real engine while clients stream: none is cut, none hears two models, no second engine starts.

With 300 stories instead of the suite's 80:

    STORIES=300 .venv/bin/python -m pytest tests/storyreason/serving/test_adapter_swap.py
"""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from storyreason import generation
from storyreason.generation import GenerationConfig, answering
from storyreason.generation.inprocess import InProcess
from storyreason.pictures import data_url
from storyreason.serving import client
from storyreason.serving.config import ServingConfig
from tests.adapting import write_folder
from tests.storyreason.serving.test_gateway import free_port
from tests.storyreason.serving.test_swap import SHORT, Listeners, chat, engines
from tests.storyreason.test_guard import wait_for

pytestmark = pytest.mark.server
CLIENTS, STORIES = 8, int(os.environ.get("STORIES", "80"))


@pytest.fixture(scope="module")
def adapters(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters over one base."""
    return [write_folder(untrained, tmp_path_factory.mktemp("adapter") / f"v{seed}", seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def gateway(
    serving: ServingConfig, adapters: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServingConfig]:
    config = serving.model_copy(update={"port": free_port()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORYREASON_RUNS", str(tmp_path_factory.mktemp("runs")))
        client.ensure_running(config)
        client.deploy(config, folder=adapters[0], version="1")
        yield config
        client.stop()
        wait_for(lambda: not engines(), 30)


def test_the_engine_tells_what_base_and_adapter_tell_in_this_process(
    gateway: ServingConfig, adapters: list[Path], frames: tuple[bytes, ...]
) -> None:
    asked, url = GenerationConfig(max_tokens=40), client.url(gateway)
    here = answering.answer_by(InProcess(adapters[0]), "1", frames[:2], asked)
    assert generation.openai.tell(url, "storyteller", frames[:2], asked).text == here.answer
    # Grounded, which asks for the length of the context and counts tokens
    body = {"images": [data_url(frame) for frame in frames[:2]], "max_tokens": 1200}
    posted = httpx.post(f"{url}/v1/stories", json=body, timeout=600, trust_env=False).json()
    assert (posted["valid"], posted["version"]) == (True, "1")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as teller:
        assert [model.id for model in teller.models.list()] == ["storyteller"]
        whole = teller.chat.completions.create(model="storyteller", messages=chat(frames), max_tokens=4)
    assert whole.model == "storyteller-1"


def test_swaps_under_streaming_clients_cut_and_mix_no_request(
    gateway: ServingConfig, adapters: list[Path], frames: tuple[bytes, ...]
) -> None:
    processes = {process.pid for process in engines()}
    with Listeners(gateway, frames[:1], CLIENTS, tokens=8) as listeners:
        listeners.hear(CLIENTS)
        heard = [set(listeners.stories)]
        for version, folder in (("2", adapters[1]), ("1", adapters[0])):
            client.deploy(gateway, folder=folder, version=version, images=frames[:1], generation=SHORT)
            swapped = len(listeners.stories)
            listeners.hear(STORIES // 2)
            heard.append(set(listeners.stories[swapped + CLIENTS :]))
    assert [len(one) for one in heard] == [1, 1, 1] and heard[0] == heard[2] != heard[1]
    assert set(listeners.stories) == heard[0] | heard[1]
    assert len(listeners.stories) >= STORIES
    assert {process.pid for process in engines()} == processes
    assert client.status(gateway).version == "1"

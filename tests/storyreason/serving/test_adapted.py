"""One adapter takes over from another in the running engine. It is scripted here; `test_adapter_swap` has a real one."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import save_file

from storyreason import dataset
from storyreason.errors import GatewayError
from storyreason.format.answer import join
from storyreason.generation.config import EngineConfig, GenerationConfig
from storyreason.serving import engines as serving_engines
from storyreason.serving.config import ServingConfig
from storyreason.serving.engines import Deployed, EnginePool, RunningEngine
from tests.storyreason.generation.endpoint import Reply, answer, endpoint, refusal
from tests.storyreason.serving.scripted import Scripted, gateway


@dataclass
class Vllm:
    """What the scripted engine was asked, and how it answers."""

    url: str = ""
    starts: list["Process"] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    refuses: str = ""
    story: str = ""

    def reply(self, body: dict[str, Any]) -> Reply:
        if name := body.get("lora_name"):
            self.asked.append(f"{'load' if 'lora_path' in body else 'unload'} {name}")
            return refusal(400, self.refuses) if self.refuses and "lora_path" in body else (200, '"Success"')
        return answer("la la la" if body["model"].endswith("-nonsense") else self.story)


class Process:
    """Stands in for a vLLM process."""

    engine: Vllm

    def __init__(self, model: str, config: EngineConfig, log: Path, name: str = "storyteller") -> None:
        self.model, self.name, self.runs = Path(model).name, name, False
        self.url = self.engine.url

    def start(self) -> None:
        self.runs = True
        self.engine.starts.append(self)

    def stop(self) -> None:
        self.runs = False

    def alive(self) -> bool:
        return self.runs


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, examples: list[dataset.Example]) -> Iterator[Vllm]:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    monkeypatch.setattr(serving_engines, "VllmServer", Process)
    monkeypatch.setattr(serving_engines, "check_memory", lambda *_: None)
    engine = Vllm(story=join(examples[0].chain_of_thought, examples[0].story))
    monkeypatch.setattr(Process, "engine", engine, raising=False)
    with endpoint(engine.reply) as engine.url:
        yield engine


def write_weights(folder: Path, value: float) -> None:
    save_file({"language_model.lora_A.weight": torch.full((1,), value)}, folder / "adapter_model.safetensors")


def adapter(tmp_path: Path, version: str, base: str = "b1", rank: int = 8) -> str:
    """The folder of an adapter, as far as the gateway reads it."""
    folder, under = tmp_path / version, tmp_path / base
    for one in (folder, under):
        one.mkdir(exist_ok=True)
        (one / "config.json").write_text("{}")
    (folder / "base.json").write_text(json.dumps({"name": base, "revision": None, "identity": base}))
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    write_weights(folder, 1.0)
    (folder / "base").symlink_to(under)
    return str(folder)


Deploy = Callable[..., Coroutine[Any, Any, Deployed]]


def deploying(pool: EnginePool, images: tuple[bytes, ...]) -> Deploy:
    def deploy(folder: str, **settings: Any) -> Coroutine[Any, Any, Deployed]:
        engine = EngineConfig(**settings)
        return pool.deploy(folder, Path(folder).name, None, images, GenerationConfig(timeout=60), engine)

    return deploy


def test_an_adapter_takes_over_in_the_process_and_the_old_one_finishes_its_requests(
    vllm: Vllm, tmp_path: Path, examples: list[dataset.Example]
) -> None:
    one, two = adapter(tmp_path, "1"), adapter(tmp_path, "2")

    async def story() -> None:
        pool = EnginePool(ServingConfig())
        deploy = deploying(pool, examples[0].images)
        await deploy(one)
        async with pool.engine() as before:
            exchange = asyncio.create_task(deploy(two))
            while pool.swaps == 0:
                await asyncio.sleep(0.01)
            async with pool.engine() as after:
                assert (before.server.name, after.server.name) == ("storyteller-1", "storyteller-2")
            assert not exchange.done() and vllm.asked == ["load storyteller-2"]
        assert (await exchange).changed
        # Back again: what is loaded under an old name may still be in vLLM's caches
        await deploy(one)
        async with pool.engine() as again:
            assert again.server.name == "storyteller-1+"
        await pool.stop()

    asyncio.run(story())
    assert vllm.asked == [
        "load storyteller-2", "unload storyteller-1", "load storyteller-1+", "unload storyteller-2",
    ]  # fmt: skip
    assert [(process.model, process.runs) for process in vllm.starts] == [("1", False)]


@pytest.mark.parametrize("refuses", ["", "Loading lora failed: rank 8 is too large"])
def test_one_that_fails_its_probe_or_that_vllm_refuses_changes_nothing(
    vllm: Vllm, tmp_path: Path, examples: list[dataset.Example], refuses: str
) -> None:
    one, nonsense = adapter(tmp_path, "1"), adapter(tmp_path, "nonsense")

    async def story() -> None:
        pool = EnginePool(ServingConfig())
        deploy = deploying(pool, examples[0].images)
        await deploy(one)
        vllm.refuses = refuses
        reason = f"vLLM does not take the adapter .*{refuses}" if refuses else "cannot be read: 'la la la'"
        with pytest.raises(GatewayError, match=rf"Version nonsense was not deployed\. .*{reason}.* 1 keeps serving"):
            await deploy(nonsense)
        assert pool.healthy() and pool.swaps == 0 and vllm.asked[-1] == "unload storyteller-nonsense"
        async with pool.engine() as engine:
            assert engine.server.name == "storyteller-1"
        # The advice works in the same process
        vllm.refuses = ""
        await deploy(nonsense, probe="none")
        assert pool.swaps == 1

    asyncio.run(story())
    assert len(vllm.starts) == 1


@pytest.mark.parametrize("why", ["base", "rank", "settings", "changed", "died"])
def test_a_process_of_its_own_for_what_the_running_one_cannot_take(vllm: Vllm, tmp_path: Path, why: str) -> None:
    one = adapter(tmp_path, "1")
    two = adapter(tmp_path, "2", base="b2" if why == "base" else "b1", rank=9 if why == "rank" else 8)

    async def story() -> None:
        pool = EnginePool(ServingConfig())
        deploy = deploying(pool, ())
        await deploy(one)
        if why == "changed":
            await deploy(two)
            write_weights(Path(one), 2.0)
        if why == "died":
            vllm.starts[0].runs = False
        await deploy(one if why == "changed" else two, max_model_len=2048 if why == "settings" else 4096)

    asyncio.run(story())
    assert [process.runs for process in vllm.starts] == [False, True]


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("rank", ".*has rank 513, and vLLM takes 512 at most: merge it"),
        ("gone", ".*The base of the adapter .* is gone from"),
    ],
)
def test_an_adapter_that_no_engine_can_serve_is_refused_and_the_old_one_serves_on(
    vllm: Vllm, tmp_path: Path, fault: str, sentence: str
) -> None:
    one, two = adapter(tmp_path, "1"), adapter(tmp_path, "2", base="b2", rank=513 if fault == "rank" else 8)
    if fault == "gone":
        (tmp_path / "b2" / "config.json").unlink()

    async def story() -> None:
        pool = EnginePool(ServingConfig())
        await deploying(pool, ())(one)
        with pytest.raises(GatewayError, match=rf"Version 2 was not deployed\. {sentence}.*Version 1 keeps serving"):
            await deploying(pool, ())(two)

    asyncio.run(story())
    assert [process.runs for process in vllm.starts] == [True]


def test_a_process_that_died_is_started_again_with_the_adapter_that_served(vllm: Vllm, tmp_path: Path) -> None:
    one, two = adapter(tmp_path, "1"), adapter(tmp_path, "2")

    async def story() -> None:
        pool = EnginePool(ServingConfig(restart_pause=0.1))
        deploy = deploying(pool, ())
        await deploy(one)
        await deploy(two)
        keeping = asyncio.create_task(pool.keep())
        vllm.starts[0].runs = False
        while not (pool.restarts and pool.healthy()):
            await asyncio.sleep(0.01)
        keeping.cancel()

    asyncio.run(story())
    assert [process.model for process in vllm.starts] == ["1", "2"]


def test_clients_ask_for_the_storyteller_whatever_the_engine_calls_it(tmp_path: Path) -> None:
    asked: list[str] = []

    def reply(body: dict[str, Any]) -> Reply:
        asked.append(body["model"])
        return answer("Once")

    large = "x" * 10_000
    with endpoint(reply, lambda: ["base", "storyteller-7"]) as url, gateway(url, tmp_path) as (address, pool):
        engine = Scripted(url)
        engine.name = "storyteller-7"
        pool._engine = RunningEngine(engine)  # type: ignore[arg-type]
        with httpx.Client(base_url=address, trust_env=False) as client:
            for model in ({"model": "storyteller"}, {"model": "storyteller-7"}, {}):
                for text in ("once", large):
                    body = {**model, "messages": [{"role": "user", "content": text}]}
                    assert client.post("/v1/chat/completions", json=body).status_code == 200
            refused = client.post("/v1/chat/completions", json={"model": "base", "messages": []})
            assert refused.status_code == 404 and "There is no model 'base': use 'storyteller'" in refused.text
            listed = client.get("/v1/models").json()["data"]
            for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/%6coad_lora_adapter"):
                answered = client.post(path, json={"lora_name": "x", "lora_path": "/etc"})
                assert answered.status_code == 404 and "does not pass this on" in answered.text
    assert asked == ["storyteller-7"] * 6
    assert {one["id"] for one in listed} == {"storyteller"}

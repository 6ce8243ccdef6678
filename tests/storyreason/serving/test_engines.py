"""Which model may replace the serving one. The engines are scripted: starting a real one takes a minute (see `test_swap`)."""

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from storyreason import dataset
from storyreason.errors import GatewayError
from storyreason.format.answer import join
from storyreason.generation.config import EngineConfig, GenerationConfig
from storyreason.model import PROMPT
from storyreason.serving import engines as serving_engines
from storyreason.serving import state
from storyreason.serving.config import ServingConfig
from storyreason.serving.engines import BusyError, Deployed, EnginePool
from storyreason.serving.routing import in_thread
from storyreason.serving.workers import workers
from tests.storyreason.generation.endpoint import answer, endpoint


class Process:
    """Stands in for a vLLM process. The name of its folder determines its answers."""

    started: list["Process"]
    addresses: dict[str, str]
    name = "storyteller"

    def __init__(self, model: str, config: EngineConfig, log: Path) -> None:
        self.folder = Path(model).name
        self.config = config
        self.runs = False

    @property
    def url(self) -> str:
        return self.addresses[self.folder]

    def start(self) -> None:
        self.runs = True
        self.started.append(self)

    def stop(self) -> None:
        self.runs = False

    def alive(self) -> bool:
        return self.runs


@pytest.fixture
def folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, examples: list[dataset.Example]
) -> Iterator[Callable[[str], str]]:
    """Model folders, named by what their model writes: `good`, `better`, `nonsense`, `careless`."""
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    monkeypatch.setattr(serving_engines, "VllmServer", Process)
    monkeypatch.setattr(serving_engines, "check_memory", lambda *_: None)
    right = join(examples[0].chain_of_thought, examples[0].story)
    careless = right.replace("</gdi>", "", 1)
    with (
        endpoint(lambda _: answer(right)) as good,
        endpoint(lambda _: answer("la la la")) as nonsense,
        endpoint(lambda _: answer(careless)) as breaks_rules,
    ):
        monkeypatch.setattr(Process, "started", [], raising=False)
        addresses = {"good": good, "better": good, "nonsense": nonsense, "careless": breaks_rules}
        monkeypatch.setattr(Process, "addresses", addresses, raising=False)
        yield lambda name: str(tmp_path / name)


Deploy = Callable[[str], Coroutine[Any, Any, Deployed]]


def deploying(engines: EnginePool, folders: Callable[[str], str], images: tuple[bytes, ...]) -> Deploy:
    return lambda name: engines.deploy(folders(name), name, None, images, GenerationConfig(timeout=60))


@pytest.mark.parametrize(
    ("probe", "name", "sentence"),
    [
        ("readable", "nonsense", "cannot be read: 'la la la'. Deploy a model that was trained"),
        ("valid", "nonsense", "cannot be read"),
        ("valid", "careless", "breaks rules .*: deploy a better model, or set serving.probe to readable"),
    ],
)
def test_a_model_that_starts_but_writes_nonsense_does_not_take_over(
    folders: Callable[[str], str], examples: list[dataset.Example], probe: str, name: str, sentence: str
) -> None:
    async def story() -> None:
        engines = EnginePool(ServingConfig(probe=probe))
        deploy = deploying(engines, folders, examples[0].images)
        await deploy("good")
        with pytest.raises(
            GatewayError, match=f"Version {name} was not deployed. .*{sentence}.*Version good keeps serving"
        ):
            await deploy(name)
        assert engines.healthy() and engines.served is not None and engines.served.version == "good"
        assert engines.deploying is None and engines.swaps == 0

    asyncio.run(story())
    assert [(process.folder, process.runs) for process in Process.started] == [("good", True), (name, False)]
    served = state.served()
    assert served is not None and served.version == "good"
    last = json.loads((state.folder() / "deployments.jsonl").read_text().splitlines()[-1])
    assert last["version"] == name and "error" in last


def test_a_gateway_of_its_own_keeps_its_state_apart(
    folders: Callable[[str], str], examples: list[dataset.Example]
) -> None:
    async def story() -> None:
        await deploying(EnginePool(ServingConfig(gateway="smoke")), folders, examples[0].images)("good")

    asyncio.run(story())

    served = state.served("smoke")
    assert served is not None and served.version == "good"
    assert (state.folder("smoke") / "deployments.jsonl").exists()
    assert state.served() is None and not list(state.folder().glob("*.log"))
    assert not (state.folder() / "deployments.jsonl").exists()


def test_a_deployments_engine_settings_survive_restarts_of_engine_and_gateway(
    folders: Callable[[str], str],
) -> None:
    short, long = EngineConfig(max_model_len=2048), EngineConfig(max_model_len=8192, dtype="float32")

    async def story() -> None:
        # Given a gateway that was started with other settings
        engines = EnginePool(ServingConfig(restart_pause=0.1))

        def deploy(engine: EngineConfig) -> Coroutine[Any, Any, Deployed]:
            return engines.deploy(folders("good"), "1", None, (), GenerationConfig(), engine)

        # Then the same settings change nothing, and others change the engine
        assert [(await deploy(engine)).changed for engine in (short, short, long)] == [True, False, True]
        assert engines.settings.max_model_len == 8192
        # And they outlive an engine that dies
        Process.started[-1].runs = False
        keeper = asyncio.create_task(engines.keep())
        while not engines.restarts or not engines.healthy():
            await asyncio.sleep(0.01)
        keeper.cancel()

    asyncio.run(story())
    assert [process.config.max_model_len for process in Process.started] == [2048, 8192, 8192]
    assert [process.runs for process in Process.started] == [False, False, True]
    # And the gateway
    assert EnginePool(ServingConfig()).settings.engine() == long.engine()


def test_prompt_settings_come_with_the_deployment_or_from_the_model_folder(folders: Callable[[str], str]) -> None:
    scored = GenerationConfig(images_first=False)

    async def story() -> None:
        engines = EnginePool(ServingConfig())
        for generation, changed in ((GenerationConfig(), True), (scored, True), (scored, False)):
            assert (await engines.deploy(folders("good"), "1", None, (), generation)).changed is changed

    asyncio.run(story())
    served = EnginePool(ServingConfig()).served
    assert served is not None and served.prompt == scored.prompt()

    # Its folder knows better than the preset of another training
    Path(folders("better")).mkdir()
    (Path(folders("better")) / PROMPT).write_text('{"images_first": false}')

    async def another() -> None:
        engines = EnginePool(ServingConfig())
        deployed = [await engines.deploy(folders("better"), "2", None, (), GenerationConfig()) for _ in range(2)]
        assert [one.changed for one in deployed] == [True, False]
        assert deployed[0].served.prompt == scored.prompt()

    asyncio.run(another())
    state.write_served(state.Served(folders("better"), "2", None, ""))  # as `storyreason serve --model` does
    served = EnginePool(ServingConfig()).served
    assert served is not None and served.prompt == scored.prompt()


def test_a_state_file_without_engine_settings_gets_this_gateways_own(folders: Callable[[str], str]) -> None:
    old = {"folder": folders("good"), "version": "1", "run_id": None, "since": "2026-01-01T00:00:00+00:00"}
    (state.folder() / "state.json").write_text(json.dumps(old))

    async def story() -> None:
        engines = EnginePool(ServingConfig(max_model_len=2048))
        keeper = asyncio.create_task(engines.keep())
        same = await engines.deploy(folders("good"), "1", None, (), GenerationConfig())
        keeper.cancel()
        assert not same.changed

    asyncio.run(story())
    assert [process.config.max_model_len for process in Process.started] == [2048]


def test_the_advice_of_a_rejection_works_without_restarting_the_gateway(
    folders: Callable[[str], str], examples: list[dataset.Example]
) -> None:
    async def story() -> None:
        engines = EnginePool(ServingConfig(probe="readable"))
        with pytest.raises(GatewayError, match=r"set serving\.probe to none"):
            await deploying(engines, folders, examples[0].images)("nonsense")
        config, lenient = GenerationConfig(timeout=60), EngineConfig(probe="none")
        await engines.deploy(folders("nonsense"), "2", None, examples[0].images, config, lenient)
        assert engines.healthy()

    asyncio.run(story())


def test_the_old_engine_finishes_its_requests_before_it_stops(
    folders: Callable[[str], str], examples: list[dataset.Example]
) -> None:
    async def story() -> None:
        engines = EnginePool(ServingConfig())
        deploy = deploying(engines, folders, examples[0].images)
        await deploy("good")
        async with engines.engine() as before:
            exchange = asyncio.create_task(deploy("better"))
            while engines.swaps == 0:
                await asyncio.sleep(0.01)
            async with engines.engine() as after:
                assert after is not before
            assert before.server.alive() and not exchange.done()
            with pytest.raises(BusyError, match="Version better is being deployed: try again when that is done"):
                await deploy("nonsense")
        assert (await exchange).changed
        assert not before.server.alive() and after.server.alive()

    asyncio.run(story())
    assert [process.folder for process in Process.started] == ["good", "better"]


def test_an_engine_that_does_not_fit_into_memory_is_not_started(
    folders: Callable[[str], str], examples: list[dataset.Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    from storyreason.generation import vllm

    monkeypatch.setattr(serving_engines, "check_memory", vllm.check_memory)

    async def story() -> None:
        engines = EnginePool(ServingConfig(kv_cache_gb=1_000_000))
        deploy = deploying(engines, folders, examples[0].images)
        await deploy("good")  # alone: what there is to lose is nothing
        with pytest.raises(
            GatewayError, match=r"needs about .* GiB of memory.*stop the gateway first.*good keeps serving"
        ):
            await deploy("better")

    asyncio.run(story())
    assert [process.folder for process in Process.started] == ["good"]


def test_a_training_that_took_the_device_of_a_dead_engine_keeps_it(
    folders: Callable[[str], str], examples: list[dataset.Example]
) -> None:
    async def story() -> None:
        engines = EnginePool(ServingConfig(restart_pause=0.3))
        await deploying(engines, folders, examples[0].images)("good")
        keeper = asyncio.create_task(engines.keep())
        Process.started[0].runs = False
        while not engines.restarts:
            await asyncio.sleep(0.01)
        await engines.suspend("training a1", 60)
        await asyncio.sleep(0.9)  # its pause has passed: nothing reports what it does not do
        assert len(Process.started) == 1
        engines.resume("training a1")
        while not engines.healthy():
            await asyncio.sleep(0.01)
        keeper.cancel()

    asyncio.run(story())
    assert len(Process.started) == 2


def test_an_unexpected_error_does_not_stop_restarts(
    folders: Callable[[str], str], examples: list[dataset.Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    start, faults = Process.start, [OSError(28, "No space left on device")]

    def starts_at_last(process: Process) -> None:
        if faults:
            raise faults.pop()
        start(process)

    async def story() -> None:
        engines = EnginePool(ServingConfig(restart_pause=0.1))
        await deploying(engines, folders, examples[0].images)("good")
        monkeypatch.setattr(Process, "start", starts_at_last)
        Process.started[0].runs = False
        keeper = asyncio.create_task(engines.keep())
        while engines.problem is None:
            assert not keeper.done()
            await asyncio.sleep(0.01)
        assert "No space left on device" in engines.problem
        while not engines.healthy():
            await asyncio.sleep(0.01)
        assert engines.problem is None
        keeper.cancel()

    asyncio.run(story())


def test_a_lease_that_cannot_be_saved_still_holds(
    folders: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "write_resting", full)
    engines = EnginePool(ServingConfig())
    asyncio.run(engines.suspend("training a1", 60))
    assert "is suspended for training a1" in str(engines.suspended_for())
    engines.resume("training a1")
    assert engines.suspended_for() is None


def test_busy_client_threads_do_not_delay_an_engine(
    folders: Callable[[str], str], examples: list[dataset.Example]
) -> None:
    free = threading.Event()

    async def story() -> None:
        engines = EnginePool(ServingConfig())
        loop = asyncio.get_running_loop()
        clients = [loop.run_in_executor(workers._pool, free.wait, 60) for _ in range(50)]
        clients += [asyncio.ensure_future(in_thread(free.wait, 60)) for _ in range(50)]
        loop.call_later(20, free.set)
        await deploying(engines, folders, examples[0].images)("good")
        assert not free.is_set()
        free.set()
        await asyncio.gather(*clients)

    asyncio.run(story())

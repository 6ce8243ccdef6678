"""The engines behind the gateway: the one that serves, at times a second one that is about to, and the swap."""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from storyreason import adapters, runs
from storyreason.errors import GatewayError, StoryReasonError
from storyreason.generation import lora
from storyreason.generation.config import EngineConfig, GenerationConfig
from storyreason.generation.vllm import VllmServer, check_memory, tell_and_check
from storyreason.serving import adapted, state
from storyreason.serving.adapted import AdapterServer, Process
from storyreason.serving.config import ServingConfig
from storyreason.serving.external import ExternalEngine
from storyreason.serving.state import Leases, Served

log = logging.getLogger(__name__)

MAX_PAUSE = 60.0
"""Longest pause in seconds between restarts. An engine that lived longer than this resets the pauses."""


Server = VllmServer | AdapterServer | ExternalEngine


class BusyError(GatewayError):
    """The gateway cannot do this now: it is deploying, or suspended."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """The outcome of a deployment. `story` is what the new model wrote about the probe's images, if there were any."""

    served: Served
    changed: bool
    story: str | None


class RunningEngine:
    """A running engine and the number of requests that it is answering."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.requests = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.started = time.monotonic()

    def take(self) -> None:
        self.requests += 1
        self.idle.clear()

    def give_back(self) -> None:
        self.requests -= 1
        if self.requests == 0:
            self.idle.set()


class EnginePool:
    """Keeps one model served. All methods run in one event loop; blocking work (starting, stopping) runs in threads."""

    def __init__(self, config: ServingConfig) -> None:
        self.config = config
        self.served = state.served(config.gateway)
        if self.served is not None:
            engine = {**config.engine(), **self.served.engine}
            prompt = {**GenerationConfig().as_trained(self.served.folder).prompt(), **self.served.prompt}
            self.served = replace(self.served, engine=engine, prompt=prompt)
        self.deploying: str | None = None
        self.problem: str | None = None
        self.restarts = self.swaps = 0
        self._engine: RunningEngine | None = None
        self._up = asyncio.Event()
        self._servers: set[Server] = set()
        self._leases = Leases(config.gateway)
        self._suspending = asyncio.Lock()

    @property
    def settings(self) -> ServingConfig:
        """The gateway's settings, updated with the engine settings of the served model's deployment."""
        return self._settings_of(self.served) if self.served else self.config

    def _settings_of(self, served: Served) -> ServingConfig:
        return self.config.model_copy(update=served.engine)

    @property
    def requests(self) -> int:
        """Number of requests that the serving engine is answering."""
        return self._engine.requests if self._engine else 0

    def healthy(self) -> bool:
        """Whether an engine is running that has answered its start-up probe."""
        return self._engine is not None and self._engine.server.alive()

    @contextlib.asynccontextmanager
    async def engine(self) -> AsyncIterator[RunningEngine]:
        """The engine for one request. It keeps running until the request is done, even if another one takes over.

        Waits for an engine that is restarting. Raises GatewayError if there is none.
        """
        await self._wait_until_healthy(self.config.wait_timeout)
        engine = self._engine
        assert engine is not None  # nothing was awaited since it was healthy
        engine.take()
        try:
            yield engine
        finally:
            engine.give_back()

    async def keep(self) -> None:
        """Start the deployed model's engine whenever it is not running, with growing pauses. Ends only when cancelled."""
        pause = self.config.restart_pause
        while True:
            try:
                if self.served is None or self.suspended_for() or self.healthy():
                    await asyncio.sleep(0.2)
                    continue
                if self._engine is not None:
                    log.error("the engine of version %s died", self.served.version)
                    self.restarts += 1
                    if time.monotonic() - self._engine.started > MAX_PAUSE:
                        pause = self.config.restart_pause
                    await self._drop()
                    await asyncio.sleep(pause)
                    continue  # during the pause a training may have taken the device, or a deployment replaced the engine
                await self._restart(self.served)
            except Exception as error:  # anything, a full disk for example: nothing else would restart the engine
                if self.suspended_for() or self.healthy():  # it was stopped while it was starting
                    continue
                self.problem = str(error) or repr(error)
                log.error(
                    "%s Next attempt in %.0f s.", self.problem, pause, exc_info=not isinstance(error, StoryReasonError)
                )
                await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE)

    async def deploy(
        self,
        folder: str,
        version: str,
        run_id: str | None,
        images: Sequence[bytes],
        generation: GenerationConfig,
        engine: EngineConfig | None = None,
        registered: str | None = None,
    ) -> Deployed:
        """Start the model beside the serving one, have it tell a story of `images` (encoded), then swap the two.

        `engine` holds its engine settings, also for restarts after a crash; by default the gateway's own. `registered` is
        the version's name in the registry. Does nothing if
        the same model is already served with the same settings. Raises BusyError during another deployment, and
        GatewayError if this one failed, in which case the previous model keeps serving.
        """
        self._refuse_while_deploying()
        if (sentence := self.suspended_for()) is not None:
            raise BusyError(sentence)
        self.deploying = version
        started = time.monotonic()
        try:
            _check_location(folder, self.config)
            generation = generation.as_trained(folder)
            engine_settings = (engine or self.config).engine()
            wanted = Served(folder, version, run_id, _now(), engine_settings, generation.prompt(), registered)
            now = self.served
            if now and now == replace(wanted, run_id=now.run_id, since=now.since, registered=now.registered):
                await self._wait_until_healthy(self.settings.startup_timeout)
                return Deployed(now, changed=False, story=None)
            deployed = await self._exchange(wanted, images, generation)
        except StoryReasonError as error:
            state.write_deployment(
                self.config.gateway, folder=folder, version=version, run_id=run_id, since=_now(), error=str(error)
            )
            still = f" Version {self.served.version} keeps serving." if self.served and self.healthy() else ""
            raise GatewayError(f"Version {version} was not deployed. {error}{still}") from error
        finally:
            self.deploying = None
        seconds = round(time.monotonic() - started, 1)
        state.write_deployment(self.config.gateway, **asdict(deployed.served), seconds=seconds, story=deployed.story)
        return deployed

    def suspended_for(self) -> str | None:
        """A sentence that says for whom serving is suspended; None if it is not."""
        holders = self._leases.holders()
        if not holders:
            return None
        what = f"Version {self.served.version}" if self.served else "Serving"
        return f"{what} is suspended for {' and '.join(holders)} and resumes by itself when that ends: try again then."

    async def suspend(self, who: str, seconds: float) -> None:
        """Finish the requests in flight, then stop the engine until `resume`, or until `seconds` pass without a renewal.

        Returns when no engine is running. Raises BusyError during a deployment.
        """
        self._refuse_while_deploying()
        self._leases.take(who, seconds, extra=self.config.drain_timeout)
        async with self._suspending:
            self._up.clear()
            engine, self._engine = self._engine, None
            if engine is not None:
                log.info("version %s is suspended for %s", self.served.version if self.served else "", who)
                await self._retire(engine)
            while self._servers:  # one may be starting right now
                await asyncio.gather(*(asyncio.to_thread(server.stop) for server in self._servers))
                await asyncio.sleep(0.05)
        self._leases.take(who, seconds)

    def resume(self, who: str) -> None:
        """Give the lease of `who` back. After the last one `keep` starts the engine."""
        self._leases.end(who)

    def _refuse_while_deploying(self) -> None:
        if self.deploying is not None:
            raise BusyError(f"Version {self.deploying} is being deployed: try again when that is done.")

    async def stop(self) -> None:
        """Stop every engine, including those that are starting."""
        self.served = None
        await asyncio.gather(*(asyncio.to_thread(server.stop) for server in self._servers))

    async def _exchange(self, served: Served, images: Sequence[bytes], generation: GenerationConfig) -> Deployed:
        beside = adapted.beside(self._engine.server if self._engine else None, self.served, served)
        if self._engine is not None and not self._settings_of(served).external and beside is None:
            check_memory(served.folder, self._settings_of(served))
        new = await self._start(served, beside)
        try:
            story = None
            if images:
                story = await asyncio.to_thread(
                    tell_and_check, new.server.url, new.server.name, images, generation, served.engine["probe"]
                )
            served = replace(served, since=_now())
            state.write_served(served, self.config.gateway)
        except BaseException:
            await self._stop(new)
            raise
        # Nothing else runs until the next await: a request gets the old engine or the new one, never none.
        old, self._engine, self.served, self.problem = self._engine, new, served, None
        self._up.set()
        log.info("version %s serves", served.version)
        # `keep` may be starting the version that was served, or waiting for it where somebody else rolled it away.
        starting = self._servers - {new.server, old.server if old else new.server}
        await asyncio.gather(*(asyncio.to_thread(server.stop) for server in starting))
        if old is not None:
            self.swaps += 1
            await self._retire(old)
        return Deployed(served, changed=True, story=story)

    async def _retire(self, old: RunningEngine) -> None:
        try:
            async with asyncio.timeout(self.config.drain_timeout):
                await old.idle.wait()
        except TimeoutError:
            log.warning(
                "%d requests of the replaced engine are aborted after %.0f s", old.requests, self.config.drain_timeout
            )
        await self._stop(old)

    async def _restart(self, served: Served) -> None:
        log.info("starting version %s", served.version)
        engine = await self._start(served)
        if self.served != served or self._engine is not None or self.suspended_for():  # something else came first
            await self._stop(engine)
            return
        self._engine, self.problem = engine, None
        self._up.set()
        log.info("version %s serves", served.version)

    def _server(self, served: Served) -> Server:
        settings = self._settings_of(served)
        if settings.external:
            return ExternalEngine(settings, served.name)
        log = state.folder(self.config.gateway) / f"vllm-{adapted.safe(served.version)}.log"
        adapter = adapters.of(served.folder)
        if adapter is None:
            return VllmServer(served.folder, settings, log)
        name = adapted.named(served.version)
        return AdapterServer(Process(VllmServer(served.folder, settings, log, name), lora.room(adapter)), adapter, name)

    async def _start(self, served: Served, beside: AdapterServer | None = None) -> RunningEngine:
        server = beside or self._server(served)
        self._servers.add(server)
        try:
            await asyncio.to_thread(server.start)
        except BaseException:
            await asyncio.to_thread(server.stop)
            self._servers.discard(server)
            raise
        return RunningEngine(server)

    async def _stop(self, engine: RunningEngine) -> None:
        await asyncio.to_thread(engine.server.stop)
        self._servers.discard(engine.server)

    async def _drop(self) -> None:
        """Forget the serving engine, which has died, and clean up after it."""
        engine, self._engine = self._engine, None
        self._up.clear()
        if engine is not None:
            await self._stop(engine)

    async def _wait_until_healthy(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not self.healthy():
            if self.served is None:
                raise GatewayError("No model is deployed: deploy one with `storyreason deploy`.")
            if (sentence := self.suspended_for()) is not None:
                raise GatewayError(sentence)
            left = deadline - time.monotonic()
            if left <= 0:
                raise GatewayError(
                    f"Version {self.served.version} is not running: {self.problem or 'it is starting; try again.'}"
                )
            if self._up.is_set():  # it has just died and `keep` has not noticed yet
                await asyncio.sleep(0.05)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):  # `wait_for` loses a cancellation that comes when the engine does
                    await self._up.wait()


def _check_location(folder: str, config: ServingConfig) -> None:
    """Raise GatewayError for a folder outside `serving.models`: whoever may deploy need not read the whole disk.

    A model's name on the Hub (owner/name) passes, unless such a folder exists.
    """
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", folder) and not Path(folder).exists():
        return
    top = Path(config.models or runs.root()).resolve()
    if not Path(folder).resolve().is_relative_to(top):
        raise GatewayError(
            f"There is no model folder {folder} under {top}: name one there, or set serving.models and restart the gateway."
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

"""A client for this checkout's gateway: start it, query it, deploy to it, suspend it, stop it."""

import base64
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storyreason import runs
from storyreason.errors import GatewayError, RunError
from storyreason.generation.config import GenerationConfig
from storyreason.serving import state
from storyreason.serving.config import ServingConfig

log = logging.getLogger(__name__)

LEASE = 60.0
"""Seconds after which the gateway resumes by itself if the lease is not renewed."""
STARTUP = 90.0
"""Seconds that a gateway may take to answer after it was started; its engine takes longer."""

_started: list["subprocess.Popen[bytes]"] = []
"""Gateways that this process started. They outlive it."""


@dataclass(frozen=True, slots=True)
class Status:
    """The answer of `/admin/status`.

    `images`: how many a request may have. `problem` says why the deployed model is not being served.
    """

    healthy: bool
    folder: str | None
    version: str | None
    run_id: str | None
    since: str | None
    model: str
    images: int
    problem: str | None
    requests: int
    deploying: str | None
    engine: dict[str, Any]
    prompt: dict[str, Any] | None
    registered: str | None


def url(config: ServingConfig) -> str:
    """The gateway's address, without `/v1`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
    return f"http://[{host}]:{config.port}" if ":" in host else f"http://{host}:{config.port}"


def token(config: ServingConfig) -> str:
    """The administrator's token, which is accepted by every route, `/v1` included."""
    return state.token(config.gateway)


def status(config: ServingConfig) -> Status:
    """Raises GatewayError if no gateway of this checkout answers."""
    try:
        return Status(**_request(config, "GET", "/admin/status"))
    except TypeError:
        raise GatewayError(
            f"The gateway at {url(config)} runs another version of the code: stop it with `storyreason down`, then run "
            "this command again."
        ) from None


def serves(config: ServingConfig, folder: str, generation: GenerationConfig) -> bool:
    """Whether this model is being served with these engine settings and this prompt, so that `deploy` would change nothing."""
    now, prompt = status(config), generation.as_trained(folder).prompt()
    return now.healthy and (now.folder, now.engine, now.prompt) == (folder, config.engine(), prompt)


def check(config: ServingConfig) -> None:
    """Raises GatewayError if something else uses the gateway's port. Starts nothing."""
    _answers(config)


def ensure_running(config: ServingConfig) -> None:
    """Start a gateway that outlives this process, unless one is running. Its log is `gateway.log` in its folder.

    Raises GatewayError with the last line of the log if the gateway does not answer.
    """
    if _answers(config):
        return
    log = state.folder(config.gateway) / "gateway.log"
    with log.open("ab") as output:
        start = output.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "storyreason.serving.gateway", config.model_dump_json()],
            cwd=Path(__file__).parents[2],  # so that it imports this storyreason, installed or not
            env=os.environ | {"STORYREASON_RUNS": str(runs.root())},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _started.append(process)
    deadline = time.monotonic() + STARTUP
    while not _answers(config):
        if process.poll() is not None:
            with log.open("rb") as file:
                file.seek(start)
                said = file.read().decode(errors="replace").split("\n")
            raise GatewayError(
                next((line for line in reversed(said) if line), f"The gateway exited immediately; see {log}.")
            )
        if time.monotonic() > deadline:
            raise GatewayError(f"The gateway did not answer within {STARTUP:.0f} s; see {log}.")
        time.sleep(0.1)


def deploy(
    config: ServingConfig,
    *,
    folder: Path | str,
    version: str,
    images: Sequence[bytes] = (),
    generation: GenerationConfig | None = None,
    run_id: str | None = None,
    registered: str | None = None,
) -> str | None:
    """Make the gateway serve another model. Returns its first story once it serves and the old engine has stopped.

    Waits for a deployment that is already in progress (left by a killed run, for example). Raises GatewayError with the
    reason if the model is rejected; the previous model keeps serving.
    """
    generation = generation or GenerationConfig()
    body = {
        "folder": str(Path(folder).absolute()) if Path(folder).is_dir() else str(folder),
        "version": version,
        "run_id": run_id,
        "images": [base64.b64encode(image).decode() for image in images],
        "generation": generation.model_dump(mode="json"),
        "engine": config.engine(),
        "registered": registered,
    }
    longest = config.startup_timeout + generation.timeout + config.drain_timeout + 60
    _wait_for_deployments(config, 2 * longest)
    answer = _request(config, "POST", "/admin/deploy", body, timeout=longest)
    story: str | None = answer["story"]
    return story


@contextmanager
def suspended(config: ServingConfig, who: str, lease: float = LEASE) -> Iterator[None]:
    """Suspend serving for the duration of the block, which frees the engine's memory. `who` appears in its answers.

    A thread renews a lease of `lease` seconds, so that the gateway resumes by itself if this process dies. Requests in
    flight and a deployment in progress are waited for. Raises GatewayError if the gateway refuses.
    """
    longest = config.startup_timeout + config.drain_timeout + config.stop_timeout + 60
    _wait_for_deployments(config, longest)
    _request(config, "POST", "/admin/rest", {"who": who, "seconds": lease}, timeout=longest)
    ending = threading.Event()

    def renew() -> None:
        while not ending.wait(lease / 4):
            try:
                _request(config, "POST", "/admin/rest", {"who": who, "seconds": lease}, timeout=longest)
            except GatewayError as error:  # it may be restarting
                log.warning("the gateway did not renew the lease of %s: %s", who, error)

    renewing = threading.Thread(target=renew, daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ending.set()
        renewing.join()
        try:
            _request(config, "POST", "/admin/wake", {"who": who})
        except GatewayError as error:
            log.warning("%s Serving resumes by itself within %.0f s of the gateway's start.", error, lease)


def _wait_for_deployments(config: ServingConfig, longest: float) -> None:
    deadline = time.monotonic() + longest
    while status(config).deploying is not None and time.monotonic() < deadline:
        time.sleep(1)


def stop() -> bool:
    """Stop the checkout's gateways and their engines; False if none is running. Raises GatewayError if one does not stop."""
    return any([_stop(name) for name in state.names()])


def _stop(name: str) -> bool:
    import httpx

    address = state.address(name)
    if address is None or not is_running(name):
        _reap()
        return False
    config = ServingConfig(host=address.host, port=address.port, gateway=name)
    try:
        _request(config, "POST", "/admin/stop", timeout=5)
    except (GatewayError, httpx.HTTPError):
        with suppress(ProcessLookupError):  # it has just exited
            os.kill(address.pid, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while is_running(name):
        if time.monotonic() > deadline:
            raise GatewayError(
                f"The gateway (process {address.pid}) does not stop: kill it with `kill -9 {address.pid}`."
            )
        time.sleep(0.1)
    _reap(address.pid)
    return True


def _reap(ended: int | None = None) -> None:
    """Collect the exit status of gateways that this process started and that have exited; `ended` is about to exit."""
    for process in list(_started):
        if process.pid == ended:
            process.wait(10)
        if process.poll() is not None:
            _started.remove(process)


def is_running(name: str = "") -> bool:
    """Whether the checkout's gateway, or the one with this name, is running: it holds the lock of its folder until it exits."""
    try:
        with runs.lock(state.folder(name), wait=0):
            return False
    except RunError:
        return True


def _answers(config: ServingConfig) -> bool:
    """Whether this checkout's gateway answers. Raises GatewayError if something else does."""
    import httpx

    try:
        httpx.get(f"{url(config)}/healthz", timeout=10, trust_env=False)
    except httpx.ConnectError:
        return False
    except httpx.HTTPError as error:
        raise _port_taken(config) from error
    status(config)
    return True


def _request(config: ServingConfig, method: str, path: str, body: Any = None, timeout: float = 30) -> dict[str, Any]:
    import httpx

    headers = {"Authorization": f"Bearer {state.token(config.gateway)}"}
    try:
        response = httpx.request(
            method, url(config) + path, json=body, headers=headers, timeout=timeout, trust_env=False
        )
    except httpx.ConnectError:
        raise GatewayError(f"No gateway answers at {url(config)}: start it with `storyreason serve`.") from None
    except httpx.TransportError as error:
        said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        log = state.folder(config.gateway) / "gateway.log"
        raise GatewayError(
            f"The gateway at {url(config)} closed the connection ({said}): see {log}, then run "
            "this command again. A restarted gateway serves what it served before."
        ) from error
    try:
        answer = response.json()
        if response.is_success:
            return dict(answer)
        sentence = str(answer["error"]["message"])
    except (ValueError, KeyError, TypeError):
        raise _port_taken(config) from None
    if response.status_code == 401:
        raise _port_taken(config)
    raise GatewayError(sentence)


def _port_taken(config: ServingConfig) -> GatewayError:
    return GatewayError(
        f"Port {config.port} is in use by something that is not the gateway of {runs.root()}: stop it, or choose "
        "another port with `--set serving.port=N`."
    )

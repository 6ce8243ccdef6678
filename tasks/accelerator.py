"""Exclusive use of accelerators: one Prefect concurrency limit per device, held while a step computes on it."""

import contextvars
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import get_client

from storyreason.config import RunConfig
from storyreason.errors import GatewayError
from storyreason.serving import client as gateway
from storyreason.training import machine

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

LEASE = 60.0
"""Seconds until the slot of a dead process is released; a live one renews its lease. Prefect allows no less."""
RENEWAL = 15.0
"""Seconds between renewals, which leaves a killed Prefect server 45 to restart in."""
AGAIN = 2.0
"""Seconds between attempts to acquire or renew."""
FREED = 60.0
"""Seconds a device may take to report the memory of an engine that has exited as free."""


def slots(devices: str | None) -> list[str]:
    """The names of the limits of these devices: `"0,1"` gives accelerator-0 and accelerator-1; None means no limit."""
    return [f"accelerator-{device}" for device in devices.split(",")] if devices else []


@contextmanager
def taken(devices: str | None) -> Iterator[None]:
    """Hold these devices, waiting while another step holds any of them. Missing limits are created with one slot each.

    Prefect's server keeps the lease across its own restarts.
    """
    names = slots(devices)
    if not names:
        yield
        return
    logger = get_run_logger()
    with get_client(sync_client=True) as client:
        for name in names:
            client.upsert_global_concurrency_limit_by_name(name, 1)
        holding = [name for name in names if client.read_global_concurrency_limit_by_name(name).active_slots]
        if holding:
            logger.info("waiting for %s, which another run holds", " and ".join(holding))
        while (lease := _take(client, names)) is None:
            time.sleep(AGAIN)
    keeper = _Keeper(names, lease)
    try:
        yield
    finally:
        keeper.end()


def _take(client: "SyncPrefectClient", names: list[str]) -> UUID | None:
    """A lease on all of them, or None while another step holds one. Raises httpx.HTTPError when the server is unreachable."""
    try:
        response = client.increment_concurrency_slots_with_lease(names, 1, "concurrency", LEASE)
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.LOCKED:
            return None
        raise
    return UUID(response.json()["lease_id"])


class _Keeper:
    """Renews a lease in a thread until `end` is called.

    Prefect's own renewal gives up after three failures, and waits long enough between them to lose the slot when the
    server restarts.
    """

    def __init__(self, names: list[str], lease: UUID) -> None:
        self._names = names
        self._lease: UUID | None = lease
        self._logger = get_run_logger()
        self._ending = threading.Event()
        # Prefect keeps its settings in context variables, which a new thread does not inherit.
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=(self._keep,), daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Release the slots. An unreachable server frees them when the lease expires."""
        self._ending.set()
        self._thread.join()
        if self._lease is None:
            return
        try:
            with get_client(sync_client=True) as client:
                client.release_concurrency_slots_with_lease(self._lease)
        except httpx.HTTPError as error:
            self._logger.warning(
                "could not release %s, which will be free in %.0f s: %s", " and ".join(self._names), LEASE, error
            )

    def _keep(self) -> None:
        pause = RENEWAL
        while not self._ending.wait(pause):
            try:
                # A new client each time: one that has connected before waits up to a minute between its own retries.
                with get_client(sync_client=True) as client:
                    self._renew(client)
                pause = RENEWAL
            except httpx.HTTPError:
                pause = AGAIN

    def _renew(self, client: "SyncPrefectClient") -> None:
        try:
            if self._lease is not None:
                client.renew_concurrency_lease(self._lease, LEASE)
                return
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.GONE:
                raise
            self._lease = None
        self._lease = _take(client, self._names)
        name = " and ".join(self._names)
        if self._lease is not None:
            self._logger.info(
                "%s: the lease expired while Prefect's server was unreachable and was acquired again", name
            )
        else:
            self._logger.warning(
                "%s: the lease expired while Prefect's server was unreachable and another run holds it now: both compute",
                name,
            )


@contextmanager
def room(config: RunConfig, who: str) -> Iterator[None]:
    """Device memory for a training. When there is too little on a device that the gateway shares, its model is suspended,
    provided that `serving.give_way` is set; it resumes when the block ends or this process dies.

    `who` is the name that the gateway shows meanwhile. Raises TrainingError when the memory does not suffice.
    """
    devices, wanted = config.training.devices, config.training.free_memory_gb
    served = _served_beside(config) if config.serving.give_way else None
    if served is None:
        machine.check_memory(devices, wanted)
        yield
    elif wanted and machine.has_memory(devices, wanted):
        get_run_logger().info("version %s keeps serving: there is memory for both", served)
        yield
    else:
        get_run_logger().info("version %s is suspended until the training ends", served)
        with gateway.suspended(config.serving, who):
            _wait_until_free(devices, wanted)
            yield


def _served_beside(config: RunConfig) -> str | None:
    """The version that the gateway serves on a device that the training uses, or None. Without names, all devices count."""
    try:
        status = gateway.status(config.serving)
    except GatewayError:  # no gateway, so nothing is served
        return None
    training, serving = config.training.devices, status.engine["devices"]
    apart = training and serving and not set(slots(training)) & set(slots(serving))
    return None if apart else status.version


def _wait_until_free(devices: str | None, wanted: float) -> None:
    """Wait: a device reports the memory of a process that has exited as free only after a moment."""
    deadline = time.monotonic() + FREED
    while not machine.has_memory(devices, wanted) and time.monotonic() < deadline:
        time.sleep(AGAIN)
    machine.check_memory(devices, wanted)

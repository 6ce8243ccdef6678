"""Who has the accelerator: a Prefect concurrency limit for each device, taken for as long as a step computes on it."""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency

LEASE = 60.0
"""Seconds after which the slot of a run whose process is gone is free again; a living run renews it."""


def slots(devices: str | None) -> list[str]:
    """The names of the limits of some devices: `"0,1"` gives accelerator-0 and accelerator-1; None: no limit at all."""
    return [f"accelerator-{device}" for device in devices.split(",")] if devices else []


@contextmanager
def taken(devices: str | None) -> Iterator[None]:
    """Hold these devices; wait while another step holds one of them. Limits that are missing are made, one slot each.

    The lease lies with Prefect's server and survives its restart.
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
    with concurrency(names, occupy=1, lease_duration=LEASE, strict=True, raise_on_lease_renewal_failure=False):
        yield

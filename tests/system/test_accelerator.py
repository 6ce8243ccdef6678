"""Who has the accelerator: two flows on a real server share a device, or have their own."""

import contextvars
import threading
from collections.abc import Iterator

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks import accelerator
from tests.system.conftest import wait_for

pytestmark = pytest.mark.server


@pytest.fixture
def server(prefect_server: dict[str, str]) -> Iterator[None]:
    with temporary_settings({PREFECT_API_URL: prefect_server["PREFECT_API_URL"]}):
        yield


class Computing:
    """A flow in a thread that takes devices, says so, and holds them until it is let go."""

    def __init__(self, devices: str | None) -> None:
        self.has, self.let_go = threading.Event(), threading.Event()

        @flow(name="computes")
        def computes() -> None:
            with accelerator.taken(devices):
                self.has.set()
                assert self.let_go.wait(600)

        # A thread begins without the settings of the fixture, which a copy of the context has.
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=(computes,))
        self._thread.start()

    def end(self) -> None:
        self.let_go.set()
        self._thread.join(600)


def taken(device: str) -> int:
    with get_client(sync_client=True) as client:
        return int(client.read_global_concurrency_limit_by_name(f"accelerator-{device}").active_slots)


def test_on_a_shared_device_the_second_waits_for_the_first(server: None) -> None:
    training = Computing("0,1")
    assert training.has.wait(600)
    evaluation = Computing("1")
    beside = Computing("2")
    unnamed = Computing(None)
    assert beside.has.wait(600)  # a device of its own
    assert unnamed.has.wait(600)
    assert not evaluation.has.is_set()
    assert (taken("0"), taken("1"), taken("2")) == (1, 1, 1)

    training.end()

    assert evaluation.has.wait(600)
    assert taken("0") == 0
    for computing in (evaluation, beside, unnamed):
        computing.end()
    wait_for(lambda: (taken("0"), taken("1"), taken("2")) == (0, 0, 0), "all slots to be free", 60)

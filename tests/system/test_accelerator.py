"""Use of accelerators: flows on a real server share a device or have their own, and serving is suspended or not."""

import contextvars
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.logging import disable_run_logger
from prefect.settings import PREFECT_API_URL, temporary_settings

from storyreason import config, training
from storyreason.errors import TrainingError
from storyreason.serving import client
from storyreason.serving.config import ServingConfig
from tasks import accelerator
from tasks import training as training_steps
from tasks.data import Base
from tasks.results import Pulled
from tests.storyreason.serving.scripted import Process, serves
from tests.system.conftest import wait_for

pytestmark = pytest.mark.server


@pytest.fixture
def server(prefect_server: dict[str, str]) -> Iterator[None]:
    with temporary_settings({PREFECT_API_URL: prefect_server["PREFECT_API_URL"]}):
        yield


class Computing:
    """A flow in a thread that acquires devices and holds them until it is released."""

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


def shared(gateway: ServingConfig, *changed: str) -> config.RunConfig:
    """The configuration of a training on the device of the gateway, or on another one."""
    overrides = [f"serving.port={gateway.port}", "serving.gateway=''", "training.devices=0", "training.max_tokens=4096"]
    return config.load("smoke", [*overrides, *changed])


@pytest.fixture
def training_flow(server: None, tiny_base: Path, tiny_data: Path, mlflow_store: None) -> Any:
    """A flow that really trains a tiny model."""
    data = Pulled((str(tiny_data),), md5="0" * 32, rev=None, card="", faulty_test_stories={})

    @flow(name="trains")
    def trains(chosen: config.RunConfig) -> Any:
        return training_steps.train(chosen, data, Base(str(tiny_base), "f" * 16))

    return trains


def test_serving_is_suspended_while_a_training_computes_on_its_device_and_resumes(
    served: ServingConfig, training_flow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = training.run
    seen: list[Any] = []

    def watched(job: training.Job, on_progress: Any) -> Path:
        def told(line: dict[str, Any]) -> None:
            seen.append((line["event"], len(Process.running), client.status(served).problem))
            on_progress(line)

        return really(job, on_progress=told)

    monkeypatch.setattr(training, "run", watched)

    training_flow(shared(served, "serving.give_way=true", "training.max_steps=2"))

    assert {event for event, _, _ in seen} >= {"start", "step", "end"}
    assert {running for _, running, _ in seen} == {0}
    assert "Version 7 is suspended for training smoke" in seen[0][2]
    wait_for(lambda: serves(served), "version 7 to be served again", 60)
    assert taken("0") == 0


def test_serving_resumes_after_a_failed_training(served: ServingConfig, training_flow: Any) -> None:
    broken = ("serving.give_way=true", "training.max_tokens=64")  # no story is so short
    with pytest.raises(TrainingError):
        training_flow(shared(served, *broken))
    wait_for(lambda: serves(served), "version 7 to be served again", 60)
    assert Process.starts == 2


@pytest.mark.parametrize(
    "changed",
    [
        ("serving.give_way=true", "training.devices=1"),
        ("serving.give_way=true", "training.free_memory_gb=0.001"),
        (),
    ],
    ids=["a device of its own", "room for both", "not allowed"],
)
def test_serving_continues_where_it_need_not_or_must_not_be_suspended(
    served: ServingConfig, changed: tuple[str, ...]
) -> None:
    with disable_run_logger(), accelerator.room(shared(served, *changed), "training"):
        assert serves(served)
    assert Process.starts == 1


def test_too_little_memory_is_an_error_and_serving_is_suspended_only_where_allowed(
    served: ServingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerator, "FREED", 0)
    greedy = "training.free_memory_gb=100000"
    for changed, starts in (((greedy,), 1), ((greedy, "serving.give_way=true"), 2)):
        with (
            disable_run_logger(),
            pytest.raises(TrainingError, match=r"GiB free, and training.free_memory_gb wants .*serving.give_way=true"),
            accelerator.room(shared(served, *changed), "training"),
        ):
            pass
        wait_for(lambda: serves(served), "version 7 to be served", 60)
        assert Process.starts == starts


def test_a_slot_lost_during_an_outage_of_the_server_is_acquired_again(
    server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases: list[Any] = []
    really = accelerator._take

    def noted(*arguments: Any) -> Any:
        leases.append(really(*arguments))
        return leases[-1]

    monkeypatch.setattr(accelerator, "_take", noted)
    monkeypatch.setattr(accelerator, "RENEWAL", 0.2)
    computing = Computing("5")
    assert computing.has.wait(600)
    with get_client(sync_client=True) as client:
        client.release_concurrency_slots_with_lease(leases[0])  # as the server does with one that ran out

    wait_for(lambda: len(leases) > 1 and taken("5") == 1, "the slot to be taken anew", 60)

    computing.end()
    assert taken("5") == 0

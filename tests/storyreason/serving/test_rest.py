"""Serving is suspended for a time and always resumes. A real gateway; its engines are scripts, since starting a real one
takes a minute (see `test_swap`).
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack

import httpx
import pytest

from storyreason.errors import GatewayError
from storyreason.generation.config import GenerationConfig
from storyreason.model import PROMPT
from storyreason.serving import client, state
from storyreason.serving.config import ServingConfig
from storyreason.serving.gateway import application
from tests.storyreason.serving.scripted import Process, serves, started
from tests.storyreason.test_guard import wait_for

pytestmark = pytest.mark.server


def test_while_suspended_no_engine_runs_and_every_response_says_why(served: ServingConfig) -> None:
    sentence = "Version 7 is suspended for training a1 and resumes by itself when that ends: try again then."
    with client.suspended(served, "training a1"):
        assert not Process.running
        refused = httpx.post(f"{client.url(served)}/v1/chat/completions", json={}, timeout=60, trust_env=False)
        assert (refused.status_code, refused.json()["error"]["message"]) == (503, sentence)
        assert client.status(served).problem == sentence
        with pytest.raises(GatewayError, match="Version 7 is suspended for training a1"):
            client.deploy(served, folder=state.folder(), version="8")
        assert not Process.running

    wait_for(lambda: serves(served), 60)
    assert client.status(served).problem is None


def test_a_deployment_brings_its_settings_along(served: ServingConfig) -> None:
    folder = str(state.folder())
    (state.folder() / PROMPT).write_text('{"images_first": false}')
    longer = served.model_copy(update={"max_model_len": 8192, "startup_timeout": 300.0})

    client.deploy(longer, folder=folder, version="8", registered="models:/storyteller/8")

    assert client.serves(longer, folder, GenerationConfig())
    assert not client.serves(served, folder, GenerationConfig())  # the gateway's own settings
    assert not client.serves(longer, folder, GenerationConfig(request="Be brief."))
    assert client.status(served).engine == longer.engine()
    assert client.status(served).registered == "models:/storyteller/8"
    answer = httpx.get(f"{client.url(served)}/healthz", timeout=60, trust_env=False).json()
    assert (answer["registered"], answer["version"]) == ("models:/storyteller/8", "8")


def test_serving_resumes_after_a_failed_training(served: ServingConfig) -> None:
    with pytest.raises(RuntimeError), client.suspended(served, "training a1"):
        raise RuntimeError
    wait_for(lambda: serves(served), 60)


def test_serving_resumes_only_after_the_last_of_two_leases(served: ServingConfig) -> None:
    with client.suspended(served, "training a1"):
        with client.suspended(served, "training b2"):
            assert "training a1 and training b2" in str(client.status(served).problem)
        assert "is suspended for training a1 and resumes" in str(client.status(served).problem)
        assert not Process.running
    wait_for(lambda: serves(served), 60)


HOLDER = """
import sys, time
from storyreason.serving import client
from storyreason.serving.config import ServingConfig
with client.suspended(ServingConfig(port=int(sys.argv[1])), "training a1", lease=8):
    print("rests", flush=True)
    time.sleep(1000)
"""


def test_serving_resumes_by_itself_when_the_training_is_killed_and_not_before(served: ServingConfig) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(served.port)], env=dict(os.environ), stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "rests\n"

        def outlived() -> bool:  # it is renewed every two seconds
            text = httpx.get(f"{client.url(served)}/metrics", timeout=60, trust_env=False).text
            counter = 'storyreason_requests_total{route="/admin/rest",status="200"}'
            (line,) = (line for line in text.splitlines() if line.startswith(counter))
            return float(line.rpartition(" ")[2]) > 6

        wait_for(outlived, 60)
        assert not Process.running
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()

    wait_for(lambda: serves(served), 60)
    assert state.resting() == {}


def test_a_gateway_restarted_while_suspended_stays_suspended_then_resumes(checkout: ServingConfig) -> None:
    with ExitStack() as first, ExitStack() as training:
        first.enter_context(started(checkout))
        wait_for(lambda: serves(checkout), 60)
        training.enter_context(client.suspended(checkout, "training a1", lease=30))
        first.close()
        # A lease is a number of seconds, no time of day: a clock that jumps neither ends it nor lets it last for ever.
        assert state.resting() == {"training a1": 30}
        with started(checkout):
            assert client.status(checkout).problem is not None
            assert not Process.running
            training.close()
            wait_for(lambda: serves(checkout), 60)


def test_an_engine_that_is_starting_is_suspended_too(checkout: ServingConfig) -> None:
    Process.may_start.clear()
    with started(checkout):
        assert Process.starting.wait(60)
        with ExitStack() as training:
            asking = threading.Thread(target=lambda: training.enter_context(client.suspended(checkout, "training a1")))
            asking.start()
            wait_for(lambda: client.status(checkout).problem is not None, 60)
            Process.may_start.set()
            wait_for(lambda: Process.starts == 1, 60)
            asking.join()
            assert not Process.running
        wait_for(lambda: serves(checkout), 60)


def test_an_unreadable_state_file_is_named(checkout: ServingConfig) -> None:
    (state.folder() / "resting.json").write_text("[")
    with pytest.raises(GatewayError, match=r"resting\.json cannot be read .*delete it"):
        application(checkout)

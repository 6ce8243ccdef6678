"""The soak, short: every request ends as it should, and the gateway is left as it was. Memory is judged by the long one."""

import asyncio

import pytest

from benchmarks.soak.__main__ import measure

pytestmark = pytest.mark.server


def test_every_request_ends_as_it_should() -> None:
    report = asyncio.run(measure(500, seed=0, every=50))

    assert report["faults"] == []
    assert report["ends"]["wrong"] == 0 and sum(report["ends"].values()) == 500
    assert report["swaps"] == 11
    assert min(report["kinds"].values()) > 5  # every kind of client took part

"""The plan of a large data set adds up."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import building_plan as planned


def test_twice_the_frames_take_twice_the_hours_and_bytes_and_more_devices_less() -> None:
    small = planned.Machine("small", 2, 50)
    one: dict[str, Any] = planned.plan(1_000_000, small)
    two: dict[str, Any] = planned.plan(2_000_000, small)
    assert two["GPU hours"] == pytest.approx(2 * one["GPU hours"], rel=0.01)
    assert {name: 2 * size for name, size in one["GB"].items()} == pytest.approx(two["GB"], rel=0.05)
    large: dict[str, Any] = planned.plan(1_000_000, planned.Machine("large", 20, 500))
    assert large["hours, all devices busy"] == pytest.approx(one["hours, all devices busy"] / 10, abs=0.1)
    assert one["cost"] == pytest.approx(large["cost"], abs=5)
    assert one["bottleneck"] == max(one["stages"], key=lambda row: row["hours"])["stage"]
    assert all(row["rests on"].split(":")[0] in ("measured", "published", "computed", "assumed") or
               row["rests on"].startswith("measured") for row in one["stages"])  # fmt: skip


def test_films_cannot_be_spread_over_more_workers_than_there_are() -> None:
    assert planned.spread(planned.FILM, 8) == pytest.approx(8)
    assert 1 <= planned.spread(10_000 * planned.FILM, 8) < 1.01

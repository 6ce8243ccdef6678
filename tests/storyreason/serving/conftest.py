"""Fixtures: a real gateway before engines that are scripts."""

from tests.storyreason.serving.asked import engine, url  # noqa: F401 (fixtures)
from tests.storyreason.serving.scripted import checkout, served  # noqa: F401 (fixtures)

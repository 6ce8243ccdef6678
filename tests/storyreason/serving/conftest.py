"""Fixtures: a real gateway in front of scripted engines."""

from tests.storyreason.serving.asked import engine, url  # noqa: F401 (fixtures)
from tests.storyreason.serving.scripted import checkout, served  # noqa: F401 (fixtures)

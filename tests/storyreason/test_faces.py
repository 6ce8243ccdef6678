"""What each room of the library shows to others: every exported name is there, and says what it is."""

import inspect
import pkgutil
from importlib import import_module

import pytest

import storyreason

ROOMS = [room.name for room in pkgutil.iter_modules(storyreason.__path__) if room.ispkg]
EXPORTS = [(room, name) for room in ROOMS for name in getattr(import_module(f"storyreason.{room}"), "__all__", ())]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is_for(room: str) -> None:
    assert import_module(f"storyreason.{room}").__doc__


@pytest.mark.parametrize(("room", "name"), EXPORTS)
def test_an_export_is_there_and_documented(room: str, name: str) -> None:
    found = getattr(import_module(f"storyreason.{room}"), name)
    if inspect.isclass(found) or inspect.isfunction(found):
        words = vars(found).get("__doc__") if inspect.isclass(found) else found.__doc__
        assert words and not words.startswith(f"{name}(")  # a dataclass without a docstring gets its signature

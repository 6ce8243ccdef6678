"""Which settings of a checkout changed since `storyreason up` started."""

import json
import os
from pathlib import Path

from storyreason import runs
from tasks import settings
from tasks.settings import Settings

FILE = "settings.json"


def remember(folder: Path, chosen: Settings) -> None:
    """Keep what `up` starts with, in its folder."""
    runs.write_text(folder / FILE, json.dumps(_digests(chosen), indent=2) + "\n")


def since(folder: Path, chosen: Settings) -> list[str]:
    """The names of the settings that differ from those that `up` was started with."""
    try:
        known: dict[str, str] = json.loads((folder / FILE).read_text())
    except FileNotFoundError:
        return []
    now = _digests(chosen)
    return sorted(name for name in known.keys() | now.keys() if known.get(name) != now.get(name))


def sentence(changed: list[str]) -> str:
    """What is said about settings that changed."""
    return f"{', '.join(changed)} changed since `storyreason up` started: apply that with `storyreason up --restart`."


def _digests(chosen: Settings) -> dict[str, str]:
    """A digest of each setting and of each other variable in `.env`: passwords are not written down."""
    values = chosen.environment()
    values |= {name: os.environ.get(name, "") for name in settings.in_dotenv() if name not in values}
    return {name: runs.fingerprint(value=value) for name, value in values.items()}

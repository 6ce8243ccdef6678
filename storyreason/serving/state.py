"""What a gateway keeps on disk: its model, address, token, API keys, leases and history.

The checkout's gateway keeps them in `runs/gateway/`, one that a preset names (`serving.gateway`) in `runs/gateway-NAME/`.
"""

import contextlib
import json
import logging
import os
import secrets
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from storyreason import runs
from storyreason.errors import GatewayError

Kind = TypeVar("Kind")

log = logging.getLogger(__name__)

MIN_KEY_LENGTH = 16
"""Fewest characters of the token and of an API key."""


@dataclass(frozen=True, slots=True)
class Served:
    """The served model, which a restarted gateway serves again. `since`: when it took over (UTC, ISO 8601)."""

    folder: str
    version: str
    run_id: str | None
    since: str
    engine: dict[str, Any] = field(default_factory=dict)
    """Its engine's settings, keyed as in `EngineConfig`; the gateway's own settings replace missing ones."""
    prompt: dict[str, Any] = field(default_factory=dict)
    """Its prompt settings, from `GenerationConfig.prompt`; the model folder's replace missing ones."""
    registered: str | None = None
    """The registered version, `models:/storyteller/2`; None for a folder that is not one."""

    @property
    def name(self) -> str | None:
        """What an engine that somebody else runs calls the version: `storyteller-2`."""
        return self.registered.removeprefix("models:/").replace("/", "-") if self.registered else None


@dataclass(frozen=True, slots=True)
class Address:
    """A gateway's process and address."""

    pid: int
    host: str
    port: int


def folder(name: str = "") -> Path:
    """The folder of the checkout's gateway, or of the one with a name; created if missing. A running one holds its lock."""
    path = runs.root() / (f"gateway-{name}" if name else "gateway")
    path.mkdir(parents=True, exist_ok=True)
    return path


def names() -> list[str]:
    """The names of the gateways that this checkout has had; the checkout's own is empty."""
    found = [path.name for path in runs.root().glob("gateway*") if path.is_dir()]
    return sorted(name.removeprefix("gateway").removeprefix("-") for name in found)


def served(name: str = "") -> Served | None:
    """The model served last; None if there never was one. Raises GatewayError if the file cannot be read."""
    return _read(folder(name) / "state.json", Served)


def write_served(state: Served, name: str = "") -> None:
    runs.write_text(folder(name) / "state.json", json.dumps(asdict(state), indent=2) + "\n")


def address(name: str = "") -> Address | None:
    """The address of the gateway, or of the last one that ran. Raises GatewayError if the file cannot be read."""
    return _read(folder(name) / "address.json", Address)


def write_address(address: Address, name: str = "") -> None:
    runs.write_text(folder(name) / "address.json", json.dumps(asdict(address)) + "\n")


def resting(name: str = "") -> dict[str, float]:
    """Who holds a lease, and each lease's seconds; no time of day, since clocks jump. Raises GatewayError."""
    path = folder(name) / "resting.json"
    try:
        return {str(who): float(seconds) for who, seconds in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise GatewayError(f"{path} cannot be read ({error}): delete it, then restart the gateway.") from None


def write_resting(leases: dict[str, float], name: str = "") -> None:
    runs.write_text(folder(name) / "resting.json", json.dumps(leases, indent=2, ensure_ascii=False) + "\n")


class Leases:
    """Leases that suspend serving, by the names of their holders. Each expires by itself, so that serving always resumes.

    They are also kept in `resting.json`: a gateway restarted meanwhile stays suspended, and every lease
    starts over. Times are those of the monotonic clock.
    """

    def __init__(self, name: str = "") -> None:
        self._name = name
        self._leases = resting(name)
        self._until = {who: time.monotonic() + seconds for who, seconds in self._leases.items()}

    def take(self, who: str, seconds: float, extra: float = 0) -> None:
        """Begin or renew a lease of `seconds`; this time it lasts `extra` seconds longer."""
        self._until[who] = time.monotonic() + seconds + extra
        self._write({**self._leases, who: seconds})

    def end(self, who: str) -> None:
        """Give a lease back. Does nothing if there is no such lease."""
        self._until.pop(who, None)
        self._write({name: seconds for name, seconds in self._leases.items() if name != who})

    def holders(self) -> list[str]:
        """Who holds a lease now. Expired leases are logged and dropped here."""
        for who in [who for who, until in self._until.items() if until < time.monotonic()]:
            log.warning("%s has not renewed its lease of %.0f s: it no longer suspends serving", who, self._leases[who])
            self.end(who)
        return list(self._until)

    def _write(self, leases: dict[str, float]) -> None:
        if leases != self._leases:
            self._leases = leases
            try:
                write_resting(leases, self._name)
            except OSError as error:  # they still hold, except for a gateway that is restarted
                log.error("the leases could not be saved: %s", error)


def write_deployment(name: str, **record: object) -> None:
    """Append one deployment of a gateway, successful or rejected, to its `deployments.jsonl`."""
    with (folder(name) / "deployments.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def token(name: str = "") -> str:
    """The administrator's secret, from a file that only its owner can read; created if missing. Raises GatewayError."""
    path = folder(name) / "token"
    if not path.exists():
        # mkstemp creates a file that only its owner can read; the link appears whole, and only one of two processes wins.
        handle, new = tempfile.mkstemp(dir=path.parent, prefix=".token.")
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(32))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(new, path)
        Path(new).unlink()
    secret = path.read_text()
    if len(secret.strip()) < MIN_KEY_LENGTH:  # an empty one would let everybody in
        raise GatewayError(
            f"{path} does not hold a token of {MIN_KEY_LENGTH} characters or more: delete it, then restart the gateway."
        )
    return secret


KEYS = "STORYREASON_API_KEYS"


def api_keys(name: str = "") -> tuple[str, ...]:
    """The API keys that `/v1` accepts; if there are none, it is open. Raises GatewayError for a short key.

    They come from `$STORYREASON_API_KEYS`, separated by commas, or else from the lines of its file `api-keys`; never from
    the command line, which other users of the machine can read.
    """
    path = folder(name) / "api-keys"
    written = (
        os.environ[KEYS].split(",") if KEYS in os.environ else path.read_text().split("\n") if path.exists() else []
    )
    keys = tuple(key.strip() for key in written if key.strip())
    if any(len(key) < MIN_KEY_LENGTH for key in keys):
        raise GatewayError(f"An API key in ${KEYS} or {path} is too short: use {MIN_KEY_LENGTH} characters or more.")
    return keys


def _read(path: Path, kind: type[Kind]) -> Kind | None:
    try:
        return kind(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, RecursionError) as error:
        raise GatewayError(f"{path} cannot be read ({error}): delete it, then deploy again.") from None

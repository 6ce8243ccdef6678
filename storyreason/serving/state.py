"""What the gateway keeps on the disk, in `runs/gateway/`: what it serves, where it listens, its token, its history."""

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
"""Characters of the token or of an API key."""


@dataclass(frozen=True, slots=True)
class Served:
    """The model that is served: what a restarted gateway serves again. `since` is when it took over (UTC, ISO 8601)."""

    folder: str
    version: str
    run_id: str | None
    since: str
    engine: dict[str, Any] = field(default_factory=dict)
    """The settings of its engine, as `EngineConfig` has them; what is missing is as the gateway was started."""
    prompt: dict[str, Any] = field(default_factory=dict)
    """How it is asked, as `GenerationConfig.prompt` has it; what is missing is as its folder says."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a gateway listens, and its process."""

    pid: int
    host: str
    port: int


def folder() -> Path:
    """`runs/gateway/`, made when missing. Its lock is held by the one gateway of this checkout."""
    path = runs.root() / "gateway"
    path.mkdir(parents=True, exist_ok=True)
    return path


def served() -> Served | None:
    """What was served last, or None when nothing ever was."""
    return _read(folder() / "state.json", Served)


def write_served(state: Served) -> None:
    runs.write_text(folder() / "state.json", json.dumps(asdict(state), indent=2) + "\n")


def address() -> Address | None:
    """Where the gateway listens, or did when it was last started."""
    return _read(folder() / "address.json", Address)


def write_address(address: Address) -> None:
    runs.write_text(folder() / "address.json", json.dumps(asdict(address)) + "\n")


def resting() -> dict[str, float]:
    """For whom the gateway gives way, and the seconds of each one's lease; a time of day is not in it, for clocks jump."""
    path = folder() / "resting.json"
    try:
        return {str(who): float(seconds) for who, seconds in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise GatewayError(f"{path} cannot be read ({error}): delete it, then start the gateway again.") from None


def write_resting(leases: dict[str, float]) -> None:
    runs.write_text(folder() / "resting.json", json.dumps(leases, indent=2, ensure_ascii=False) + "\n")


class Leases:
    """Leases by their holders' names. They are kept in `runs/gateway/resting.json` too: a gateway that is started again
    in the middle rests on, each lease counted anew. Time is the monotonic clock's, which does not jump.
    """

    def __init__(self) -> None:
        self._leases = resting()
        self._until = {who: time.monotonic() + seconds for who, seconds in self._leases.items()}

    def take(self, who: str, seconds: float, extra: float = 0) -> None:
        """Begin or renew a lease of so many seconds; `extra` ones are added this time alone."""
        self._until[who] = time.monotonic() + seconds + extra
        self._write({**self._leases, who: seconds})

    def end(self, who: str) -> None:
        """Give a lease back. One that is not there, or no longer, changes nothing."""
        self._until.pop(who, None)
        self._write({name: seconds for name, seconds in self._leases.items() if name != who})

    def holders(self) -> list[str]:
        """Whose lease runs. One that has run out is forgotten here, and said."""
        for who in [who for who, until in self._until.items() if until < time.monotonic()]:
            log.warning("%s has not renewed its lease of %.0f s: it no longer holds serving up", who, self._leases[who])
            self.end(who)
        return list(self._until)

    def _write(self, leases: dict[str, float]) -> None:
        if leases != self._leases:
            self._leases = leases
            try:
                write_resting(leases)
            except OSError as error:  # the leases hold all the same, but for a gateway that is started again
                log.error("the leases were not written down: %s", error)


def write_deployment(**record: object) -> None:
    """Add one deployment, carried out or refused, to `deployments.jsonl`."""
    with (folder() / "deployments.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def token() -> str:
    """The secret that administers this gateway, in a file that its owner alone can read. Made when missing."""
    path = folder() / "token"
    if not path.exists():
        # mkstemp makes a file that its owner alone can read; a link appears whole, and of two who make it, one wins.
        handle, new = tempfile.mkstemp(dir=folder(), prefix=".token.")
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(32))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(new, path)
        Path(new).unlink()
    secret = path.read_text()
    if len(secret.strip()) < MIN_KEY_LENGTH:  # an empty one would open everything to everybody
        raise GatewayError(
            f"{path} holds no token of {MIN_KEY_LENGTH} characters: delete it, then start the gateway again."
        )
    return secret


KEYS = "STORYREASON_API_KEYS"


def api_keys() -> tuple[str, ...]:
    """The keys, one of which `/v1` wants; none: it wants no key. From `$STORYREASON_API_KEYS`, between commas, or else
    from the lines of `runs/gateway/api-keys`; what is on a command line, other people of the machine can read.
    """
    path = folder() / "api-keys"
    written = (
        os.environ[KEYS].split(",") if KEYS in os.environ else path.read_text().split("\n") if path.exists() else []
    )
    keys = tuple(key.strip() for key in written if key.strip())
    if any(len(key) < MIN_KEY_LENGTH for key in keys):
        raise GatewayError(f"An API key has {MIN_KEY_LENGTH} characters or more: one in ${KEYS} or {path} has fewer.")
    return keys


def _read(path: Path, kind: type[Kind]) -> Kind | None:
    try:
        return kind(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise GatewayError(f"{path} cannot be read ({error}): delete it, then deploy again.") from None

"""For whom the gateway gives way: leases that run out, so that what it serves always comes back."""

import logging
import time

from storyreason.serving import state

log = logging.getLogger(__name__)


class Rest:
    """Leases by their holders' names. They are kept in `runs/gateway/resting.json` too: a gateway that is started again
    in the middle rests on, each lease counted anew. Time is the monotonic clock's, which does not jump.
    """

    def __init__(self) -> None:
        self._leases = state.resting()
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
                state.write_resting(leases)
            except OSError as error:  # the leases hold all the same, but for a gateway that is started again
                log.error("the leases were not written down: %s", error)

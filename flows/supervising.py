"""supervisord, whose parts end on SIGTERM from their first instant on: `python -m flows.supervising -c supervisord.conf`.

Between fork and exec a part has supervisord's own handlers, which would lose the signal; `storyreason down` would then wait a
minute for a part that was just started. So signals are held from before the fork until the part has the default handlers.
"""

import os
import signal

from supervisor import supervisord

HELD = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


class Supervisor(supervisord.Supervisor):  # type: ignore[misc]
    def runforever(self) -> None:
        """Called once it is a daemon: what it forks from now on are its parts."""
        os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_release_to_the_default)
        super().runforever()


def _hold() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)


def _release() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)


def _release_to_the_default() -> None:
    for number in HELD:
        signal.signal(number, signal.SIG_DFL)
    _release()


if __name__ == "__main__":
    supervisord.Supervisor = Supervisor
    supervisord.main()

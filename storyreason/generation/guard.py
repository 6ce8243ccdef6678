"""Runs a command and sees to it that none of its processes outlives the owner, kill -9 of the owner included.

    python -I -S guard.py -- vllm serve ...

The owner starts this process as the leader of a new process group and holds the other end of its standard input. That
pipe closes when the owner ends, however it ends. Then, on SIGTERM, and when the command ends by itself, the whole group
goes: vLLM starts further processes, which stay in it. Uses the standard library alone, so that it starts in no time.
"""

import os
import signal
import subprocess
import sys
import threading
import time

GRACE = 5.0
"""Seconds that the command gets to end by itself after its owner is gone."""


def main() -> None:
    command = subprocess.Popen(sys.argv[sys.argv.index("--") + 1 :], stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, lambda *_: command.terminate())
    threading.Thread(target=follow_owner, args=(command,), daemon=True).start()
    command.wait()
    os.killpg(0, signal.SIGKILL)  # 0 is the own group: whatever the command left, and this process


def follow_owner(command: subprocess.Popen[bytes]) -> None:
    sys.stdin.buffer.read()  # nobody ever writes: it returns when the owner's end of the pipe is closed
    command.terminate()
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()

"""End all processes of one engine, also when the command that has started it was killed.

Flower's processes start further processes in sessions of their own. So each process of the engine is recognised by a
word in its environment. The guard is a process that waits for the end of the command: a pipe that nobody writes to.
This file uses the standard library only, so that the guard starts in a moment.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

MARK = "FAIRSEQ_KD_ENGINE"  # the environment variable: the word of the engine
SECONDS_TO_END = 10


def marked(word: str) -> list[int]:
    """The process ids whose environment has the word, without this process and without those that have ended."""
    wanted, found = f"{MARK}={word}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # of another user, or ended meanwhile
            if wanted in path.read_bytes().split(b"\0") and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
    return found


def end_all(word: str) -> bool:
    """Kill all processes of the engine, and those that they start meanwhile; whether all have ended."""
    deadline = time.monotonic() + SECONDS_TO_END
    while (left := marked(word)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    return not left


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 1):
        pass
    end_all(sys.argv[1])

"""Cores of the processor: how many this process may use, and how many of them other work occupies (Linux).

Everywhere else the numbers of `os` are used, and the occupied cores are not known.
"""

import os
import time
from pathlib import Path

STAT, QUOTA = Path("/proc/stat"), Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """The cores that the affinity and the control group of this process allow, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, _quota() or allowed))


def _quota() -> int | None:
    """The whole cores of the control group's limit, at least 1. None: without a limit, or not known."""
    try:
        limit, period = QUOTA.read_text(encoding="ascii").split()
        return None if limit == "max" else max(1, int(limit) // int(period))
    except (OSError, ValueError):
        return None


def busy_cores(seconds: float = 0.2) -> float | None:
    """How many of the usable cores work on average during the next `seconds`. None: not known."""
    before = _idle_ticks()
    time.sleep(seconds)
    after = _idle_ticks()
    if not before or before.keys() != after.keys():
        return None
    shares = []
    for core, (idle, total) in after.items():
        passed = total - before[core][1]
        shares.append(1 - (idle - before[core][0]) / passed if passed > 0 else 0.0)
    return sum(shares)


def _idle_ticks() -> dict[str, tuple[int, int]]:
    """The name of each core that this process may use -> (idle ticks, all ticks) since the start of the system."""
    try:
        lines = STAT.read_text(encoding="ascii").splitlines()
        allowed = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        found = {}
        for name, *ticks in (line.split() for line in lines):
            if name in allowed:  # user nice system idle iowait irq softirq steal; the guests' are in the first two
                numbers = [int(word) for word in ticks[:8]]
                found[name] = (numbers[3] + numbers[4], sum(numbers))
        return found
    except (OSError, ValueError, IndexError, AttributeError):
        return {}


def advice_on_threads(threads: int, cores: int, busy: float | None) -> str | None:
    """What to do about too many threads: one line, or None when the threads fit.

    threads: of this process. cores: usable ones. busy: cores that other work occupies; None: not known.
    Threads that share a core wait for each other at every step, so two trainings side by side can be slower than one
    after the other.
    """
    free = max(0.0, cores - (busy or 0.0))
    fitting = max(1, int(free + 0.25))
    if threads <= fitting:
        return None
    occupied = "" if busy is None else f", of which other work occupies {busy:.1f}"
    return (
        f"{threads} threads on {cores} usable core{'s' if cores > 1 else ''}{occupied}: the threads wait for each "
        f"other, so the training can be many times slower; set OMP_NUM_THREADS={fitting}, or wait for the other work"
    )

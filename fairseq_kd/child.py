"""Processes that must not outlive the one that started them."""

import ctypes
import functools
import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """In the child: be killed when its parent is, or two runs would write to one folder after a restart (Linux).

    parent: its process id. One that died before this call sends no signal any more, and the child has another parent
    since: a subreaper or process 1. In a container process 1 can be the true parent, so its number says nothing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def dying_with_this_process() -> Callable[[], None]:
    """The `preexec_fn` of a child of this process that is to die with it."""
    return functools.partial(die_with_parent, os.getpid())

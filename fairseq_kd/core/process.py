"""Processes: ones that must not outlive the process that started them, and one function over many lines in several.

Processes that must not outlive the one that started them.

One function over many lines, in this process or in several; the order of the lines is kept.
"""

import contextlib
import ctypes
import functools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator

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


_function = None


@contextlib.contextmanager
def map_lines(function: Callable[[str], str], workers: int) -> Iterator[Callable[[list[str]], list[str]]]:
    """Yield a function from lines to lines that applies `function` to each, in `workers` processes if more than one.

    What `function` returns must depend on its line alone. Processes are forked, as those of fairseq-preprocess are:
    started anew, each would first import torch and fairseq.
    """
    if workers == 1:
        yield lambda lines: [function(line) for line in lines]
        return
    with multiprocessing.get_context("fork").Pool(workers, _initialise, (function,)) as pool:
        yield lambda lines: pool.map(_apply, lines, chunksize=max(1, len(lines) // (4 * workers)))


def _initialise(function) -> None:
    global _function
    _function = function


def _apply(line: str) -> str:
    return _function(line)

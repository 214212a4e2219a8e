"""Processes: how they end, children that must not outlive their parent, and work on lines in several processes."""

import atexit
import contextlib
import ctypes
import faulthandler
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Called in a child: the system kills it when its parent ends (Linux).

    Otherwise two runs could write to one folder after a restart.
    parent: its process id. A parent that died before this call sends no signal any more, and the child then has another
    parent: a subreaper or process 1. In a container, process 1 can be the true parent, so its number says nothing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def dying_with_this_process(interruptible: bool = False) -> Callable[[], None]:
    """A `preexec_fn` for a child process that must end with this process.

    interruptible: SIGINT ends the child even if this process ignores it, as a background job of a shell script does.
    For a child out of reach of the terminal, to which this process itself passes interrupts on.
    """
    return functools.partial(_begin_child, os.getpid(), interruptible)


def _begin_child(parent: int, interruptible: bool) -> None:
    die_with_parent(parent)
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminated(BaseException):
    """The process got SIGTERM. Not an Exception, so that only code that cleans up reacts to it."""


@contextlib.contextmanager
def signals_that_end() -> Iterator[None]:
    """Raise Terminated at SIGTERM during the block, so that temporary files are removed as after SIGINT.

    A forked child has the default action again, see `_default_in_child`. Outside of the main thread nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise_terminated(number, frame):
    raise Terminated


def _default_in_child() -> None:
    """Let a forked child end at SIGTERM at once. Python runs a handler only between its steps, and a child may wait."""
    if signal.getsignal(signal.SIGTERM) is _raise_terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


os.register_at_fork(after_in_child=_default_in_child)


def run_and_leave(run: Callable[[], object]) -> NoReturn:
    """In a fork of a process that has loaded libraries: run, and end with the status of `sys.exit`, 0 without it.

    Exit functions run and output is written, as at each end, but the interpreter does not release its objects: that
    copies the memory that the fork shares, and takes longer than many commands. Other ends (an exception, `sys.exit`
    with a text) are those of the interpreter.
    """
    status = 0
    try:
        run()
    except SystemExit as error:
        if not isinstance(error.code, int | None):
            raise
        status = error.code or 0
    threading._shutdown()  # waits for threads; this, and the next line, are what multiprocessing does in its forks
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status & 0xFF)


def show_fatal_signals() -> None:
    """Let Python print a message and its stack when a signal such as SIGBUS ends the process.

    SIGBUS comes when a mapped file was cut off by another process; without this the user sees no message.
    """
    if not faulthandler.is_enabled() and sys.__stderr__ is not None:
        with contextlib.suppress(OSError, ValueError):  # a standard error without a descriptor
            faulthandler.enable(sys.__stderr__)


@contextlib.contextmanager
def map_lines(function: Callable[[str], str], workers: int) -> Iterator[Callable[[list[str]], list[str]]]:
    """Yield a function that applies `function` to each line of a list and keeps their order.

    More than one of the `workers` are processes. The result of `function` must depend on its line alone.
    """
    if workers == 1:
        yield lambda lines: [function(line) for line in lines]
        return
    with forked_workers(function, workers) as pool:
        yield lambda lines: list(pool.map(call, lines, chunksize=max(1, len(lines) // (4 * workers))))


def forked_workers(function: Callable, workers: int) -> "ProcessPoolExecutor":
    """An executor whose processes apply `function`: `pool.submit(call, item)`.

    Processes are forked, like the workers of fairseq-preprocess: they share the memory of this process, and a new
    interpreter would first have to import torch and fairseq. They end without a signal, unlike the workers of
    multiprocessing.Pool: a signal to a worker that waits for a lock can leave the lock taken for ever.
    """
    from concurrent.futures import ProcessPoolExecutor  # most commands start without them
    from multiprocessing import get_context

    return ProcessPoolExecutor(workers, get_context("fork"), _set_function, (function,))


_function = None


def _set_function(function) -> None:
    global _function
    _function = function


def call(item):
    """In a worker of `forked_workers`: the result of the function for one item."""
    return _function(item)

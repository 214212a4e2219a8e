"""How a process of stock fairseq that loaded the plugin ends: with a clear error, and without aborting.

What fairseq code itself raises (a refused checkpoint given to --path, a worker that ended with status 2) becomes one
line and exit status 2; any other exception keeps its traceback.
"""

import atexit
import sys
import threading
import time

from torch.multiprocessing import ProcessExitedException

from fairseq_kd.checkpoint import refusal, refused_type
from fairseq_kd.errors import EXIT_USER_ERROR, KDError, report

READER_SECONDS = 10


def _let_reader_threads_rest() -> None:
    """At exit: wait until the threads in which fairseq reads batches ahead are blocked on their full queues.

    They are daemon threads. When the interpreter shuts down while one is inside torch, the process aborts (status -6,
    "terminate called without an active exception"), whether the run ended well or not. A blocked one does no harm.
    """
    deadline = time.monotonic() + READER_SECONDS
    while time.monotonic() < deadline and any(map(_is_working, threading.enumerate())):
        time.sleep(0.01)


def _is_working(thread: threading.Thread) -> bool:
    if type(thread).__module__ != "fairseq.data.iterators" or not thread.is_alive():
        return False
    frame = sys._current_frames().get(thread.ident)
    return frame is not None and frame.f_code.co_name != "wait"  # of threading.Condition, inside queue.put


def install_exit_handling() -> None:
    """Prepare this process for ending well; can be called again.

    `sys.excepthook` is extended so that user errors that reach it are one line and exit status 2, and fairseq's reader
    threads are waited for at exit.
    """
    previous = sys.excepthook
    if getattr(previous, "of_fairseq_kd", False):
        return
    atexit.register(_let_reader_threads_rest)

    def hook(kind, error, traceback):
        message = _message_of_user_error(error)
        if message is None:
            previous(kind, error, traceback)
            return
        if message:
            report(KDError(message))
        raise SystemExit(EXIT_USER_ERROR)

    hook.of_fairseq_kd = True
    sys.excepthook = hook


def _message_of_user_error(error: BaseException) -> str | None:
    """The line to print, empty when a worker has printed it, None when this is not a user error."""
    if isinstance(error, KDError):
        return str(error)
    if isinstance(error, ProcessExitedException) and error.exit_code == EXIT_USER_ERROR:
        return ""
    type_name = refused_type(error)
    return None if type_name is None else refusal("the checkpoint", type_name)

"""The end of a process of stock fairseq that has loaded the plugin: one clear error line, and no abort.

User errors that reach fairseq's own code (a refused checkpoint given to --path, a worker that ended with status 2)
become one line and exit status 2. Any other exception keeps its traceback.
"""

import atexit
import contextlib
import queue
import sys
import threading
import time

from torch.multiprocessing import ProcessExitedException

from fairseq_kd.core.errors import EXIT_USER_ERROR, KDError, report
from fairseq_kd.inference.checkpoint import refusal, refused_type

READER_SECONDS = 60  # the longest wait for a reader thread that still reads its current batch


def _end_reader_threads() -> None:
    """At exit: end the threads in which fairseq reads batches ahead, and wait for their end.

    They are daemon threads. If the interpreter shuts down while one of them is inside torch, the process aborts (status
    -6, "terminate called without an active exception"), even after a successful run. It is not enough that a thread is
    blocked on its full queue: a thread that waits for the worker processes of a data loader looks the same, and wakes
    up. A thread that has ended releases its data loader, which then ends its own threads and workers.
    """
    deadline = time.monotonic() + READER_SECONDS
    readers = [thread for thread in threading.enumerate() if _is_reader(thread)]
    for reader in readers:
        reader._max_len = 0  # it stops after its current batch
    for reader in readers:
        while reader.is_alive() and time.monotonic() < deadline:
            _empty(reader._queue)
            reader.join(0.01)


def _is_reader(thread: threading.Thread) -> bool:
    return type(thread).__module__ == "fairseq.data.iterators" and hasattr(thread, "_max_len")


def _empty(batches: queue.Queue) -> None:
    """Remove all batches, so that the thread that fills the queue is not blocked and can end."""
    with contextlib.suppress(queue.Empty):
        while True:
            batches.get_nowait()


def install_exit_handling() -> None:
    """Install the handling of this module in the process; a second call has no effect.

    It extends `sys.excepthook`, so that a user error becomes one line and exit status 2, and ends fairseq's reader
    threads at exit.
    """
    previous = sys.excepthook
    if getattr(previous, "of_fairseq_kd", False):
        return
    atexit.register(_end_reader_threads)

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
    """The line to print: empty when a worker has printed it; None when the error is not a user error."""
    if isinstance(error, KDError):
        return str(error)
    if isinstance(error, ProcessExitedException) and error.exit_code == EXIT_USER_ERROR:
        return ""
    type_name = refused_type(error)
    return None if type_name is None else refusal("the checkpoint", type_name)

"""How a process of stock fairseq that loaded the plugin ends: with a clear error, and without aborting.

What fairseq code itself raises (a refused checkpoint given to --path, a worker that ended with status 2) becomes one
line and exit status 2; any other exception keeps its traceback.
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

READER_SECONDS = 60  # what a reader may need for the batch that it has in hand


def _end_reader_threads() -> None:
    """At exit: end the threads in which fairseq reads batches ahead, and wait until they have ended.

    They are daemon threads. When the interpreter shuts down while one is inside torch, the process aborts (status -6,
    "terminate called without an active exception"), whether the run ended well or not. To see one blocked on its full
    queue would prove nothing: a thread that waits for the worker processes of a data loader looks alike and wakes. One
    that has ended lets go of its data loader, which then ends its own threads and workers.
    """
    deadline = time.monotonic() + READER_SECONDS
    readers = [thread for thread in threading.enumerate() if _is_reader(thread)]
    for reader in readers:
        reader._max_len = 0  # the batch in hand is its last
    for reader in readers:
        while reader.is_alive() and time.monotonic() < deadline:
            _empty(reader._queue)
            reader.join(0.01)


def _is_reader(thread: threading.Thread) -> bool:
    return type(thread).__module__ == "fairseq.data.iterators" and hasattr(thread, "_max_len")


def _empty(batches: queue.Queue) -> None:
    """Take out what nobody will read, so that the thread that fills the queue can go on to its end."""
    with contextlib.suppress(queue.Empty):
        while True:
            batches.get_nowait()


def install_exit_handling() -> None:
    """Prepare this process for ending well; can be called again.

    `sys.excepthook` is extended so that user errors that reach it are one line and exit status 2, and fairseq's reader
    threads are ended at exit.
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
    """The line to print, empty when a worker has printed it, None when this is not a user error."""
    if isinstance(error, KDError):
        return str(error)
    if isinstance(error, ProcessExitedException) and error.exit_code == EXIT_USER_ERROR:
        return ""
    type_name = refused_type(error)
    return None if type_name is None else refusal("the checkpoint", type_name)

"""What a user can cause: one clear error, exit status 2, no traceback.

Code raises `KDError` with a message that says what was found, why it matters and what to do.
The boundaries turn it into exit status 2:

- `fairseq-kd` catches it in `cli.main`;
- stock fairseq commands call into the plugin through `exit_on_user_error`. It raises SystemExit, which fairseq
  and Hydra let through, so that no `crash.pt` is written for a mistyped option;
- what stock fairseq code itself raises (a refused checkpoint given to --path, a worker that ended with status 2)
  reaches `sys.excepthook`, which `install_exit_handling` extends. Any other exception keeps its traceback.
"""

import atexit
import contextlib
import sys
import threading
import time

EXIT_USER_ERROR = 2
READER_SECONDS = 10


class KDError(Exception):
    """A condition that the user can mend. The message is complete: found, why, what to do."""


def report(error: BaseException) -> None:
    """Print `error` as one line to standard error."""
    print(f"fairseq_kd: error: {error}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def exit_on_user_error():
    """Turn a KDError raised inside into its message on standard error and exit status 2."""
    try:
        yield
    except KDError as error:
        report(error)
        raise SystemExit(EXIT_USER_ERROR) from error


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
    from torch.multiprocessing import ProcessExitedException

    from fairseq_kd.checkpoint import refusal, refused_type

    if isinstance(error, KDError):
        return str(error)
    if isinstance(error, ProcessExitedException) and error.exit_code == EXIT_USER_ERROR:
        return ""
    type_name = refused_type(error)
    return None if type_name is None else refusal("the checkpoint", type_name)

"""Printing that never decides about a result.

A result can be complete when its report cannot be printed: the terminal knows only ASCII, the reader of a pipe has
ended (`fairseq-kd evaluate ... | head -1`), or the disk that holds standard output is full. While a command runs, its
streams therefore escape characters that they cannot encode, and remember a failure instead of raising it. What is
printed after the failure is dropped.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

from fairseq_kd.core.errors import EXIT_USER_ERROR, KDError, report


class LastingStream:
    """A text stream whose `write` and `flush` do not raise OSError. error: the first one, or None.

    stream: None, as Python has it for a descriptor that was closed before the start, drops everything.
    """

    def __init__(self, stream):
        self.stream, self.error = stream, None
        if stream is None:  # the open file also keeps a file of the command from getting the closed descriptor
            self.stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115

    def write(self, text: str) -> int:
        """Write, unless an earlier call has failed."""
        if self.error is None:
            try:
                return self.stream.write(text)
            except OSError as error:
                self.error = error
        return len(text)

    def writelines(self, lines) -> None:
        """Write each of the lines."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, unless an earlier call has failed."""
        if self.error is None:
            try:
                self.stream.flush()
            except OSError as error:
                self.error = error

    def discard_rest(self) -> None:
        """Let Python drop the unwritten content of the stream at its exit, without a message."""
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self.stream.fileno())

    def __getattr__(self, name: str):
        return getattr(self.stream, name)


@contextlib.contextmanager
def lasting_output() -> Iterator[LastingStream]:
    """Standard output and standard error as `LastingStream` during the block; yield the first.

    Where a stream has failed, its rest is discarded at the end. The streams belong to the process, so only the main
    thread replaces them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield LastingStream(sys.stdout)
        return
    before = sys.stdout, sys.stderr
    streams = [LastingStream(stream) for stream in before]
    with contextlib.ExitStack() as stack:
        for stream in before:
            stack.enter_context(_escaping(stream))
        sys.stdout, sys.stderr = streams
        try:
            yield streams[0]
        finally:
            for stream in streams:
                stream.flush()
            sys.stdout, sys.stderr = before
            for stream in streams:
                if stream.error is not None:
                    stream.discard_rest()


@contextlib.contextmanager
def _escaping(stream) -> Iterator[None]:
    """Characters that the stream cannot encode are written as escapes (± as \\xb1) during the block."""
    if not hasattr(stream, "reconfigure"):
        yield
        return
    before = stream.errors
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it flushes, and the stream may have failed
            stream.reconfigure(errors=before)


def status_after_printing(status: int, output: LastingStream) -> int:
    """The exit status of a command with this status, and one clear error when standard output was full.

    A closed pipe changes nothing: its reader had enough.
    """
    output.flush()
    if output.error is None or isinstance(output.error, BrokenPipeError):
        return status
    reason = output.error.strerror or output.error
    report(KDError(f"standard output cannot be written ({reason}): files are complete, but the printed text is lost"))
    return EXIT_USER_ERROR

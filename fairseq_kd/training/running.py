"""A process of fairseq-train: its output goes to a log, its progress to standard error."""

import os
import re
from pathlib import Path

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.preloaded import start_python
from fairseq_kd.core.progress import Progress

LOG_LINES_SHOWN = 15
CHUNK_BYTES = 2**16


class Running:
    """fairseq-train from its start to its end. At the end of a `with` block a process that still runs is killed.

    Its output can be waited for (`fileno`), so several of them can run at the same time.
    """

    def __init__(self, arguments: list[str], log: Path, max_update: int, label: str, threads: int | None = None):
        """arguments: of fairseq-train. label: its name in the progress. threads: of the process; None: torch's."""
        self._log, self._label, self._max_update = log, label, max_update
        self._progress, self._status, self._rest = None, None, b""
        self._file = open(log, "ab")  # noqa: SIM115 closed by __exit__
        self._output, written = os.pipe()
        try:
            self._process = start_python(["fairseq_cli.train", *arguments], written, threads=threads)
        except BaseException:
            self._close()
            raise
        finally:
            os.close(written)

    def fileno(self) -> int:
        """The descriptor from which `read` reads."""
        return self._output

    def read(self) -> bool:
        """Read what there is of its output; False once there will be no more."""
        found = os.read(self._output, CHUNK_BYTES)
        self._file.write(found)
        *lines, self._rest = (self._rest + found).split(b"\n")
        for line in lines:
            self._show(line.decode(errors="replace"))
        return bool(found)

    def _show(self, line: str) -> None:
        if "| train_inner |" not in line or not (found := re.search(r'"num_updates": "(\d+)"', line)):
            return
        updates = int(found[1])
        self._progress = self._progress or Progress(self._label, self._max_update, "updates", done=updates)
        loss = re.search(r'"loss": "([\d.]+)"', line)
        self._progress.reach(updates, f"loss {loss[1]}" if loss else "")
        self._file.flush()

    def end(self) -> None:
        """Wait for its end. Raises KDError with the end of the log if it failed."""
        self._status = self._process.wait()
        if self._progress is not None:
            self._progress.finish()
        self._file.flush()
        if self._status != 0:
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            tail = "".join(lines[-LOG_LINES_SHOWN:])
            raise KDError(f"fairseq-train ended with status {self._status}; the end of {self._log}:\n{tail}")

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_) -> None:
        if self._status is None:
            self._process.kill()
            self._process.wait()
        self._close()

    def _close(self) -> None:
        os.close(self._output)
        self._file.close()

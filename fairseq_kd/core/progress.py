"""Progress with an estimate of the time left, on standard error."""

import sys
import time

SECONDS_BETWEEN_LINES = 10  # when standard error is a file


def format_seconds(seconds: float) -> str:
    """65 -> "1:05", 3700 -> "1:01:40"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress:
    """Progress of one piece of work: one line that is rewritten on a terminal, elsewhere a line every ten seconds."""

    def __init__(self, label: str, total: int | None, unit: str, done: int = 0, stream=None):
        """total: None if unknown. done: the amount that an earlier run had finished; the rate counts only new work."""
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self.stream = stream or sys.stderr
        self._from, self._started = done, time.monotonic()
        self._last_shown = -SECONDS_BETWEEN_LINES
        self._on_terminal = self.stream.isatty()

    def advance(self, amount: int, note: str = "") -> None:
        """Count `amount` more."""
        self.reach(self.done + amount, note)

    def reach(self, done: int, note: str = "") -> None:
        """Set the finished amount to `done`, and show it if enough time has passed."""
        self.done = done
        elapsed = time.monotonic() - self._started
        if elapsed - self._last_shown >= (0.2 if self._on_terminal else SECONDS_BETWEEN_LINES):
            self._last_shown = elapsed
            self._show(elapsed, note)

    def over(self, items):
        """Yield `items` and count each."""
        for item in items:
            yield item
            self.advance(1)

    def finish(self) -> None:
        """Clear the line on a terminal."""
        if self._on_terminal:
            print("\r\033[K", end="", file=self.stream, flush=True)

    def _line(self, elapsed: float, note: str) -> str:
        new = self.done - self._from
        rate = new / elapsed if elapsed > 0 else 0
        if self.total is None:
            line = f"{self.label}: {self.done:,} {self.unit}, {rate:.1f}/s"
        else:
            left = format_seconds((self.total - self.done) / rate) if rate > 0 else "?"
            line = f"{self.label}: {self.done:,}/{self.total:,} {self.unit}, {rate:.1f}/s, {left} left"
        return line + (f", {note}" if note else "")

    def _show(self, elapsed: float, note: str) -> None:
        line = self._line(elapsed, note)
        end = "" if self._on_terminal else "\n"
        start = "\r\033[K" if self._on_terminal else ""
        print(start + line, end=end, file=self.stream, flush=True)

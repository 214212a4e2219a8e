"""Progress with an estimate of the time left, on standard error: a bar on a terminal, lines in a file."""

import sys
import time

SECONDS_BETWEEN_LINES = 10  # when standard error is a file
SECONDS_BETWEEN_BARS = 0.2  # on a terminal


def format_seconds(seconds: float) -> str:
    """5 -> "5 s", 65 -> "1 min 05 s", 3700 -> "1 h 01 min"; days are not named: 90000 -> "25 h 00 min"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


class Progress:
    """Progress of one piece of work: on a terminal one bar that is redrawn, elsewhere a line every ten seconds."""

    def __init__(self, label: str, total: int | None, unit: str, done: int = 0, stream=None):
        """total: None if unknown. done: the amount that an earlier run had finished; the rate counts only new work."""
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self.stream = stream or sys.stderr
        self._from, self._started = done, time.monotonic()
        self._last_shown = -SECONDS_BETWEEN_LINES
        self._on_terminal, self._bar = self.stream.isatty(), None

    def advance(self, amount: int, note: str = "") -> None:
        """Count `amount` more."""
        self.reach(self.done + amount, note)

    def reach(self, done: int, note: str = "") -> None:
        """Set the finished amount to `done`, and show it if enough time has passed."""
        self.done = done
        elapsed = time.monotonic() - self._started
        between = SECONDS_BETWEEN_BARS if self._on_terminal else SECONDS_BETWEEN_LINES
        if elapsed - self._last_shown >= between:
            self._last_shown = elapsed
            self._show(elapsed, note)

    def over(self, items):
        """Yield `items` and count each."""
        for item in items:
            yield item
            self.advance(1)

    def finish(self) -> None:
        """Clear the bar on a terminal."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _text(self, elapsed: float, note: str) -> str:
        """What is done and the time left, without the label."""
        new = self.done - self._from
        total = "" if self.total is None else f"/{self.total:,}"
        parts = [f"{self.done:,}{total} {self.unit}"]
        if new > 0 and elapsed > 0:
            rate = new / elapsed
            parts.append(f"{rate:.1f}/s")
            if self.total is not None:
                parts.append(f"{format_seconds((self.total - self.done) / rate)} left")
        return ", ".join([*parts, *([note] if note else [])])

    def _show(self, elapsed: float, note: str) -> None:
        text = self._text(elapsed, note)
        if not self._on_terminal:
            print(f"{self.label}: {text}", file=self.stream, flush=True)
            return
        if self._bar is None:
            self._bar = _open_bar(self.total, self.stream)
        self._bar.n = self.done
        self._bar.set_description_str(f"{self.label}: {text}")


def _open_bar(total: int | None, stream):
    """A bar of tqdm, which fits it into one line of the terminal, at any width. total: None shows text alone."""
    from tqdm import tqdm  # commands that show no bar start without it

    class Bar(tqdm):
        monitor_interval = 0  # no thread: processes are forked while a bar is shown

    return Bar(
        total=total,
        file=stream,
        leave=False,
        dynamic_ncols=True,
        bar_format="{desc}" if total is None else "{desc} {percentage:3.0f}% |{bar}|",
        delay=1e-9,  # nothing is drawn before the first text
    )

"""Teachers, or caches, that follow each other in one training: each is used up to and including its last update."""

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScheduledPart:
    """One part: `open` makes its source. name: for the log; parts with equal names are one source.

    last: the number of the last update that uses it, where 1 is the first update of the training; None: no end.
    """

    name: str
    last: int | None
    open: Callable


class _Schedule:
    """A `SignalSource` that asks the source of the present part."""

    def __init__(self, parts: list[ScheduledPart], updates: Callable[[], int]):
        """updates(): the number of updates before the present one."""
        self.parts, self._updates = parts, updates
        self._number, self._source = None, None

    def number_at(self, updates: int) -> int:
        """The number of the part, from 0, for the update that follows `updates` updates."""
        return next(number for number, part in enumerate(self.parts) if part.last is None or updates < part.last)

    @property
    def current(self):
        """The source of the present part. A change is logged."""
        updates = self._updates()
        number = self.number_at(updates)
        if number != self._number:
            part = self.parts[number]
            if self._source is None or part.name != self.parts[self._number].name:
                self._source = None  # before the next one is opened, so that the memory never holds both
                gc.collect()
                self._source = part.open()
            end = "the end" if part.last is None else f"update {part.last}"
            logger.info(f"--teacher-schedule: the teacher from update {updates + 1} to {end} is {part.name}")
            self._number = number
        return self._source

    @property
    def sums(self) -> dict[str, torch.Tensor]:
        """As in the source of the present part, for the log."""
        return getattr(self.current, "sums", {})

    @property
    def tokens(self) -> int:
        """As in the source of the present part, for the log."""
        return self.current.tokens

    def request(self, sample, keep: torch.Tensor, temperature: float) -> Callable:
        """As in `SignalSource`."""
        return self.current.request(sample, keep, temperature)


class ScheduledNetworks(_Schedule):
    """Parts that are networks. Only those of the present part are in memory."""

    def check_file(self) -> None:
        """Load each part once, one after the other, and release it.

        Raises KDError for the first part that cannot be used.
        """
        different = {part.name: part.open for part in self.parts}
        for opened in different.values():
            opened().check_file()
        for opened in different.values():
            opened().load()
            gc.collect()

    def choose_dtype(self, student, autocast: str = "none") -> None:
        """As `OnlineSignalSource.choose_dtype`, for the present part."""
        self.current.choose_dtype(student, autocast)

    def max_target_positions(self) -> int:
        """As `OnlineSignalSource.max_target_positions`, for the present part."""
        return self.current.max_target_positions()


class ScheduledCaches(_Schedule):
    """Parts that are caches. All are opened and checked at the start; they are mapped, so they need no memory."""

    def __init__(self, parts: list[ScheduledPart], updates: Callable[[], int]):
        """Raises KDError for the first cache that cannot be used."""
        opened = {part.name: part.open() for part in {part.name: part for part in parts}.values()}
        self._unchecked = list(opened.values())
        super().__init__([replace(part, open=partial(opened.get, part.name)) for part in parts], updates)

    def request(self, sample, keep: torch.Tensor, temperature: float) -> Callable:
        """As in `SignalSource`. The first request compares all caches with the data.

        Raises KDError for the first cache of other data.
        """
        while self._unchecked:
            self._unchecked.pop(0).check_data()
        return super().request(sample, keep, temperature)

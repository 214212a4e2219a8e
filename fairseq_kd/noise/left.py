"""The units that are left of a block after deletion, and what is beside each. A place is a number among them."""

from typing import NamedTuple

import numpy as np

from fairseq_kd.noise.units import Units


class Spans(NamedTuple):
    """Lines or groups of which something is left: numbers of the first unit of each, and of two others."""

    first: np.ndarray
    end: np.ndarray  # the last one
    last_left: np.ndarray


class Left:
    """It lists the deleted units alone, so that little is computed where few are.

    is_deleted: bool (units,).
    """

    def __init__(self, units: Units, deleted: np.ndarray, per_line: np.ndarray):
        """deleted: numbers of units, in order. per_line: how many of them each line has."""
        self._units = units
        self.deleted, self.is_deleted = deleted, np.zeros(len(units), dtype=bool)
        self.is_deleted[deleted] = True
        self._left_before = deleted - np.arange(len(deleted))  # each deleted one
        self._lines = self._spans(units.lines, units.lines - np.append(0, np.cumsum(per_line)))
        self._groups = self._lines
        if units.groups is not units.lines:
            self._groups = self._spans(units.groups, self.places(units.groups))

    def places(self, numbers: np.ndarray) -> np.ndarray:
        """How many are left before each of these units."""
        return numbers - np.searchsorted(self.deleted, numbers)

    def numbers(self, places: np.ndarray) -> np.ndarray:
        """The units at these places."""
        return places + np.searchsorted(self._left_before, places, side="right")

    def with_right_neighbour(self, numbers: np.ndarray) -> np.ndarray:
        """Those of the units `numbers` (all left) that have a right neighbour in their group."""
        is_last = np.zeros(len(self._units), dtype=bool)
        is_last[self._groups.last_left] = True
        return numbers[~is_last[numbers]]

    def partners(self, numbers: np.ndarray, window: int, rng: np.random.Generator) -> np.ndarray:
        """For each of these units one to its right in its group, up to `window` places away, drawn at random."""
        places, steps = self.places(numbers), 1
        if window > 1:
            ends = self.places(self._groups.last_left)
            reach = np.minimum(window, ends[np.searchsorted(ends, places)] - places)
            steps = 1 + (rng.random(len(places)) * reach).astype(np.int64)
        return self.numbers(places + steps)

    def swappable(self, in_active: np.ndarray) -> int:
        """How many units, left or not, have a unit to their right that is left.

        in_active: bool (units,), those that are asked about: whole lines, but for what is protected.
        """
        first, _, last_left = self._groups
        if self._units.protected is None:
            return int((last_left - first)[in_active[last_left]].sum())
        before = np.append(0, np.cumsum(in_active))
        return int((before[last_left] - before[first]).sum())

    def other_gaps(self) -> tuple[np.ndarray, np.ndarray]:
        """(units that are followed by another unit's gap, whose gap).

        The last of a line is followed by the end of the line, others by the first gap that is not empty before the
        next unit. Between words none is empty, so there each but the last keeps its own.
        """
        _, end, last_left = self._lines
        is_other = last_left < end
        numbers, owners = last_left[is_other], end[is_other]
        if not self._units.touching:
            return numbers, owners
        edges = self._units.edges
        filled = np.append(np.flatnonzero(edges[3::2] > edges[2:-1:2]), len(self._units))
        before = np.flatnonzero(self.is_deleted[1:] & ~self.is_deleted[:-1])
        before = before[~np.isin(before, last_left)]
        first_filled = filled[np.searchsorted(filled, before)]
        is_other = (first_filled > before) & (first_filled < self.numbers(self.places(before) + 1))
        return np.append(before[is_other], numbers), np.append(first_filled[is_other], owners)

    def _spans(self, first: np.ndarray, places: np.ndarray) -> Spans:
        """first: of each line or group, and the number of all units. places: theirs."""
        some = np.flatnonzero(places[1:] > places[:-1])
        end = first[1:][some] - 1
        last_left, gone = end.copy(), self.is_deleted[end]
        last_left[gone] = self.numbers(places[1:][some[gone]] - 1)
        return Spans(first[some], end, last_left)

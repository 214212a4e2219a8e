"""A block written anew with some of its units deleted, replaced and swapped.

It is cut only where something changes, so what lies between two changes is copied as a whole: at rates of ten percent
that is several times faster than to copy every unit and every gap.

The units that are left of a block after deletion, and what is beside each. A place is a number among them.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

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


class Cut:
    """A block in slices: what is before the first of the given units, that unit, what follows it, the next unit, ..."""

    def __init__(self, block: Units, units: list[np.ndarray], with_gap: np.ndarray):
        """units: their numbers. with_gap: bool (all units,), those that take the gap behind them into their slice."""
        is_given = np.zeros(len(block), dtype=bool)
        for numbers in units:
            is_given[numbers] = True
        given = np.flatnonzero(is_given)
        self._slice_of = np.empty(len(block), dtype=np.int64)
        self._slice_of[given] = np.arange(1, 2 * len(given), 2)
        edges = np.empty(2 * len(given) + 2, dtype=np.int32)
        edges[0], edges[-1] = 0, len(block.data)
        edges[1:-1:2] = block.edges[2 * given + 1]
        edges[2:-1:2] = block.edges[2 * given + 2 + with_gap[given]]
        self.slices = block.cut(edges)

    def units(self, numbers: np.ndarray) -> np.ndarray:
        """Which slices these units are. What follows each is the next slice."""
        return self._slice_of[numbers]


def rewrite(
    block: Units,
    left: Left,
    substituted: np.ndarray,
    substitutes: pa.Array | None,
    swapped: np.ndarray,
    partners: np.ndarray,
) -> np.ndarray:
    """The new block, uint8. All but `substitutes` are numbers of units.

    substitutes: what comes into the place of each of `substituted`, before anything is swapped.
    swapped: change places with their `partners`, from left to right.
    """
    regapped, owners = left.other_gaps()
    with_gap = left.is_deleted.copy()
    with_gap[owners] = False
    # what follows one of `regapped` is its gap alone, since the next unit is deleted; cut likewise behind the owners
    next_ones = owners[owners < len(block) - 1] + 1
    cut = Cut(block, [left.deleted, substituted, swapped, partners, regapped, next_ones], with_gap)
    slices, order = cut.slices, np.arange(len(cut.slices), dtype=np.int32)
    if len(substituted):
        order[cut.units(substituted)] = np.arange(len(slices), len(slices) + len(substituted))
        slices = pa.concat_arrays([slices, substitutes])
    _swap(order, cut.units(swapped), cut.units(partners))
    if len(left.deleted):
        order[cut.units(regapped) + 1] = cut.units(owners) + 1
        stays = np.ones(len(order), dtype=bool)
        stays[cut.units(left.deleted)] = stays[cut.units(owners) + 1] = False
        order = order[stays]
    return np.frombuffer(slices.take(pa.array(order)).buffers()[2], np.uint8)


def _swap(order: np.ndarray, here: np.ndarray, there: np.ndarray) -> None:
    """Let what is at `here` change places with what is at `there`, from left to right, in `order`."""
    if len(here) == 0:
        return
    if (there[:-1] <= here[1:]).all():  # one by one, or in chains along which one is passed on
        ends = np.flatnonzero(there[:-1] < here[1:])  # of chains, but for the last
        passed_on = order[here[np.append(0, ends + 1)]]
        order[here] = order[there]
        order[there[np.append(ends, len(here) - 1)]] = passed_on
        return
    for one, other in zip(here.tolist(), there.tolist(), strict=True):
        order[one], order[other] = order[other], order[one]

"""Write a block again with some of its units deleted, substituted and swapped.

The block is cut only where something changes, and the text between two changes is copied as a whole. At rates of ten
percent this is several times faster than copying every unit and every gap.

A unit has two numbers: its number among all units of the block, and its position among the remaining units, which are
the units that were not deleted.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from fairseq_kd.noise.units import Units


class Spans(NamedTuple):
    """Three unit numbers for each line or group with a remaining unit: first unit, last unit, last remaining unit."""

    first: np.ndarray
    last: np.ndarray
    last_remaining: np.ndarray


class Remaining:
    """The units of a block that remain after deletion, their positions, and their neighbours.

    Only the deleted units are listed, so the cost grows with their number. is_deleted: bool (units,).
    """

    def __init__(self, units: Units, deleted: np.ndarray, per_line: np.ndarray):
        """deleted: unit numbers, ascending. per_line: how many of these units each line has."""
        self._units = units
        self.deleted, self.is_deleted = deleted, np.zeros(len(units), dtype=bool)
        self.is_deleted[deleted] = True
        self._remaining_before = deleted - np.arange(len(deleted))  # for each deleted unit
        self._lines = self._spans(units.lines, units.lines - np.append(0, np.cumsum(per_line)))
        self._groups = self._lines
        if units.groups is not units.lines:
            self._groups = self._spans(units.groups, self.places(units.groups))

    def places(self, numbers: np.ndarray) -> np.ndarray:
        """The positions of these units: how many units remain before each of them."""
        return numbers - np.searchsorted(self.deleted, numbers)

    def numbers(self, places: np.ndarray) -> np.ndarray:
        """The numbers of the units at these positions."""
        return places + np.searchsorted(self._remaining_before, places, side="right")

    def with_right_neighbour(self, numbers: np.ndarray) -> np.ndarray:
        """The units among `numbers` (all of them remain) that have a remaining unit to their right in their group."""
        is_last = np.zeros(len(self._units), dtype=bool)
        is_last[self._groups.last_remaining] = True
        return numbers[~is_last[numbers]]

    def partners(self, numbers: np.ndarray, window: int, rng: np.random.Generator) -> np.ndarray:
        """For each of these units, a random unit to its right in its group, at most `window` positions away."""
        places, steps = self.places(numbers), 1
        if window > 1:
            ends = self.places(self._groups.last_remaining)
            reach = np.minimum(window, ends[np.searchsorted(ends, places)] - places)
            steps = 1 + (rng.random(len(places)) * reach).astype(np.int64)
        return self.numbers(places + steps)

    def swappable(self, in_active: np.ndarray) -> int:
        """How many units, deleted or not, have a remaining unit to their right in their group.

        in_active: bool (units,), the units to count: all unprotected units of some lines.
        """
        first, _, last_remaining = self._groups
        if self._units.protected is None:
            return int((last_remaining - first)[in_active[last_remaining]].sum())
        before = np.append(0, np.cumsum(in_active))
        return int((before[last_remaining] - before[first]).sum())

    def other_gaps(self) -> tuple[np.ndarray, np.ndarray]:
        """(numbers of the remaining units whose own gap is replaced, numbers of the units whose gap replaces it).

        The last remaining unit of a line takes the gap of the line's last unit, which holds the end of the line. Any
        other remaining unit takes the first gap that is not empty among its own gap and the gaps of the deleted units
        behind it. Without `Units.touching`, only the last remaining unit of a line can take another gap.
        """
        _, last, last_remaining = self._lines
        is_other = last_remaining < last
        numbers, owners = last_remaining[is_other], last[is_other]
        if not self._units.touching:
            return numbers, owners
        edges = self._units.edges
        filled = np.append(np.flatnonzero(edges[3::2] > edges[2:-1:2]), len(self._units))
        before = np.flatnonzero(self.is_deleted[1:] & ~self.is_deleted[:-1])
        before = before[~np.isin(before, last_remaining)]
        first_filled = filled[np.searchsorted(filled, before)]
        is_other = (first_filled > before) & (first_filled < self.numbers(self.places(before) + 1))
        return np.append(before[is_other], numbers), np.append(first_filled[is_other], owners)

    def _spans(self, first: np.ndarray, places: np.ndarray) -> Spans:
        """first: first unit of each line or group, then the number of units. places: the positions of these units."""
        some = np.flatnonzero(places[1:] > places[:-1])
        last = first[1:][some] - 1
        last_remaining, is_deleted = last.copy(), self.is_deleted[last]
        last_remaining[is_deleted] = self.numbers(places[1:][some[is_deleted]] - 1)
        return Spans(first[some], last, last_remaining)


class Cut:
    """A block in slices: the text before the first given unit, that unit, the text up to the next given unit, ..."""

    def __init__(self, block: Units, units: list[np.ndarray], with_gap: np.ndarray):
        """units: numbers of given units. with_gap: bool (all units,), units whose slice includes their gap."""
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
        """The slices of these given units. The next slice is the text that follows the unit."""
        return self._slice_of[numbers]


def rewrite(
    block: Units,
    remaining: Remaining,
    substituted: np.ndarray,
    substitutes: pa.Array | None,
    swapped: np.ndarray,
    partners: np.ndarray,
) -> np.ndarray:
    """The new block, uint8.

    substituted, swapped, partners: unit numbers. The `substitutes` replace the units `substituted` before any swap.
    Then the units `swapped` change places with their `partners`, from left to right.
    """
    regapped, owners = remaining.other_gaps()
    with_gap = remaining.is_deleted.copy()
    with_gap[owners] = False
    # only its gap follows a unit of `regapped`, because the next unit is deleted; the same cut is needed after `owners`
    after_owners = owners[owners < len(block) - 1] + 1
    cut = Cut(block, [remaining.deleted, substituted, swapped, partners, regapped, after_owners], with_gap)
    slices, order = cut.slices, np.arange(len(cut.slices), dtype=np.int32)
    if len(substituted):
        order[cut.units(substituted)] = np.arange(len(slices), len(slices) + len(substituted))
        slices = pa.concat_arrays([slices, substitutes])
    _swap(order, cut.units(swapped), cut.units(partners))
    if len(remaining.deleted):
        order[cut.units(regapped) + 1] = cut.units(owners) + 1
        stays = np.ones(len(order), dtype=bool)
        stays[cut.units(remaining.deleted)] = stays[cut.units(owners) + 1] = False
        order = order[stays]
    return np.frombuffer(slices.take(pa.array(order)).buffers()[2], np.uint8)


def _swap(order: np.ndarray, here: np.ndarray, there: np.ndarray) -> None:
    """Exchange order[here[i]] and order[there[i]] in place, for i from left to right."""
    if len(here) == 0:
        return
    # If no exchange reaches beyond the start of the next one, the exchanges form chains: the first entry of a chain
    # moves to its end, and every other entry moves one step to the left.
    if (there[:-1] <= here[1:]).all():
        ends = np.flatnonzero(there[:-1] < here[1:])  # the last exchange of each chain except the last chain
        moved = order[here[np.append(0, ends + 1)]]
        order[here] = order[there]
        order[there[np.append(ends, len(here) - 1)]] = moved
        return
    for one, other in zip(here.tolist(), there.tolist(), strict=True):
        order[one], order[other] = order[other], order[one]

"""A block written anew with some of its units deleted, replaced and swapped.

It is cut only where something changes, so what lies between two changes is copied as a whole: at rates of ten percent
that is several times faster than to copy every unit and every gap.
"""

import numpy as np
import pyarrow as pa

from fairseq_kd.noise.left import Left
from fairseq_kd.noise.units import Units


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

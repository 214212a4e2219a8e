"""Noise in one block of lines.

Each unit of the block is drawn for one operation or for none, independently of all others. Then, in this order:

    delete        the unit goes, and with it the gap behind it (the last of a line takes the one before it)
    substitute    another unit comes into its place
    swap          from left to right, the unit changes places with one to its right, up to `swap_window` units away
                  among those that are left; of characters, only within their word

The gaps stay where they are, so a line that met no operation stays as it was, byte by byte. A line that would lose all
its units keeps one of them, drawn at random. All draws depend on the seed, the side and the number of the block alone.
"""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from fairseq_kd.noise.options import OPERATIONS, NoiseOptions
from fairseq_kd.noise.units import Units
from fairseq_kd.noise.vocabulary import Vocabulary

BLOCK_LINES = 4096  # part of what a seed means: another number gives other noise
CHOICE = 2  # purposes of random numbers, beside the sides 0 and 1


@dataclass
class Counts:
    """How many units there were, could meet each operation, and met it. Sums over blocks."""

    lines: int = 0
    lines_without_units: int = 0  # they stay as they are
    lines_chosen: int = 0  # by sentence_share
    lines_changed: int = 0
    units: int = 0
    lines_kept_from_vanishing: int = 0  # all of their units were drawn for deletion
    possible: dict = field(default_factory=lambda: dict.fromkeys(OPERATIONS, 0))
    done: dict = field(default_factory=lambda: dict.fromkeys(OPERATIONS, 0))

    def add(self, other: "Counts") -> None:
        """Add another block's."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            total = {key: mine[key] + value[key] for key in mine} if isinstance(value, dict) else mine + value
            setattr(self, name, total)


@dataclass(frozen=True)
class Noised:
    """data: the block with noise, uint8. changed: bool (lines,), which met an operation. counts: what was done."""

    data: np.ndarray
    changed: np.ndarray
    counts: Counts


def chosen_lines(options: NoiseOptions, seed: int, number: int, count: int) -> np.ndarray:
    """bool (count,): the lines of a block that get noise. The same on both sides of a corpus."""
    if options.sentence_share == 1:
        return np.ones(count, dtype=bool)
    return np.random.default_rng([seed, CHOICE, number]).random(count) < options.sentence_share


def add_noise(
    units: Units, options: NoiseOptions, *, seed: int, side: int, number: int, vocabulary: Vocabulary | None
) -> Noised:
    """Noise in the block with this number of a side (0: source, 1: target).

    vocabulary: needed where options.substitute > 0.
    """
    rng = np.random.default_rng([seed, side, number])
    per_line = np.diff(units.lines)
    active = chosen_lines(options, seed, number, len(per_line))
    line_of = np.repeat(np.arange(len(per_line)), per_line)
    drawn = _draw(units, line_of, options, active, rng)
    deleted, spared = _spare(units, line_of, drawn["delete"], per_line, rng)
    left = Left(units, deleted)
    content, pieces = np.arange(1, 2 * len(units), 2, dtype=np.int32), units.pieces()
    if len(substituted := drawn["substitute"]):
        replaced = pieces.take(pa.array(content[substituted]))
        content[substituted] = np.arange(len(pieces), len(pieces) + len(substituted))
        pieces = pa.concat_arrays([pieces, vocabulary.draw(replaced, rng)])
    swapped = left.with_right_neighbour(drawn["swap"])
    order = content[left.units]
    _swap(order, swapped, left.group_ends, options.swap_window, rng)
    done = {"delete": deleted, "substitute": substituted, "swap": left.units[swapped]}
    changed = np.zeros(len(per_line), dtype=bool)
    changed[line_of[np.concatenate(list(done.values()))]] = True
    units_chosen = int(per_line[active].sum())
    counts = Counts(
        lines=len(per_line),
        lines_without_units=int((per_line == 0).sum()),
        lines_chosen=int(active.sum()),
        lines_changed=int(changed.sum()),
        lines_kept_from_vanishing=spared,
        units=len(units),
        possible={"delete": units_chosen, "substitute": units_chosen, "swap": left.swappable(active, line_of)},
        done={name: len(numbers) for name, numbers in done.items()},
    )
    written = np.zeros(2 * len(order) + 1, dtype=np.int32)  # which piece comes next; 0 is the prefix
    written[1::2] = order
    written[2::2] = 2 * left.gaps() + 2
    return Noised(np.frombuffer(pieces.take(pa.array(written)).buffers()[2], np.uint8), changed, counts)


class Left:
    """The units that are left after deletion. A place is a number among them."""

    def __init__(self, units: Units, deleted: np.ndarray):
        """deleted: numbers of units."""
        self._all, self._any_deleted = units, len(deleted) > 0
        alive = np.ones(len(units), dtype=bool)
        alive[deleted] = False
        self.units = np.flatnonzero(alive)
        self._before = np.append(0, np.cumsum(alive, dtype=np.int32))  # how many are left before each unit
        ends = self._before[units.groups]
        self._groups = np.flatnonzero(ends[1:] > ends[:-1])  # those of which something is left
        self.group_ends = ends[1:][self._groups] - 1  # the last place of each

    def with_right_neighbour(self, numbers: np.ndarray) -> np.ndarray:
        """The places of those of the units `numbers` (all left) that have a right neighbour in their group."""
        is_last = np.zeros(len(self.units), dtype=bool)
        is_last[self.group_ends] = True
        places = self._before[numbers]
        return places[~is_last[places]]

    def swappable(self, active: np.ndarray, line_of: np.ndarray) -> int:
        """How many units, left or not, of the active lines have a unit to their right that is left."""
        ends = self.units[self.group_ends]
        return int((ends - self._all.groups[self._groups])[active[line_of[ends]]].sum())

    def gaps(self) -> np.ndarray:
        """Whose gap follows each unit that is left: its own, or the first one that is not empty before the next unit.

        The last of a line is followed by the end of the line.
        """
        units = self._all
        if not self._any_deleted:
            return self.units
        gaps = self.units.copy()
        if units.groups is not units.lines:  # of characters, most gaps are empty
            filled = np.append(np.flatnonzero(units.edges[3::2] > units.edges[2:-1:2]), len(units))
            own = filled[np.searchsorted(filled, gaps)]
            gaps = np.where(own < np.append(gaps[1:], len(units)), own, gaps)
        behind = self._before[units.lines]
        lines = np.flatnonzero(behind[1:] > behind[:-1])
        gaps[behind[1:][lines] - 1] = units.lines[1:][lines] - 1
        return gaps


def _draw(units: Units, line_of, options: NoiseOptions, active, rng) -> dict[str, np.ndarray]:
    """Numbers of the units that are drawn for each operation."""
    values = rng.random(len(units), dtype=np.float32)
    met = np.flatnonzero(values < options.total)
    if options.sentence_share < 1:
        met = met[active[line_of[met]]]
    values = values[met]
    is_deleted, is_below_swap = values < options.delete, values < options.delete + options.substitute
    if not options.swap:  # whatever rounding says
        is_below_swap[:] = True
    return {
        "delete": met[is_deleted],
        "substitute": met[is_below_swap & ~is_deleted],
        "swap": met[~is_below_swap],
    }


def _spare(units: Units, line_of, deleted: np.ndarray, per_line: np.ndarray, rng) -> tuple[np.ndarray, int]:
    """(deleted, but for one unit of each line that would lose all, number of such lines)."""
    gone = np.bincount(line_of[deleted], minlength=len(per_line))
    bare = np.flatnonzero((gone == per_line) & (per_line > 0))
    kept = units.lines[bare] + (rng.random(len(bare)) * per_line[bare]).astype(np.int64)
    return (deleted[~np.isin(deleted, kept)] if len(kept) else deleted), len(bare)


def _swap(order: np.ndarray, places: np.ndarray, ends: np.ndarray, window: int, rng) -> None:
    """Let each of `places` change places with one to its right, from left to right, in `order`.

    ends: the last place of each group; none of `places` is one.
    """
    if window == 1:
        heads = places[np.diff(places, prepend=-2) > 1]  # the first of each run of neighbours moves behind the run
        tails = places[np.diff(places, append=len(order) + 1) > 1]
        moved = order[heads]
        order[places] = order[places + 1]
        order[tails + 1] = moved
        return
    reach = np.minimum(window, ends[np.searchsorted(ends, places)] - places)
    partners = places + 1 + (rng.random(len(places)) * reach).astype(np.int64)
    for here, there in zip(places.tolist(), partners.tolist(), strict=True):
        order[here], order[there] = order[there], order[here]

"""Noise in one block of lines.

Each unit of the block is drawn for one operation or for none, independently of all others. Then, in this order:

    delete        the unit goes, and with it the gap behind it (the last of a line takes the one before it)
    substitute    another unit comes into its place
    swap          from left to right, the unit changes places with one to its right, up to `swap_window` units away
                  among those that are left; of characters, only within their word

Protected units meet none, keep their place, and do not count: as if the line had only the others.

The gaps stay where they are, so a line that met no operation stays as it was, byte by byte. A line that would lose all
its units keeps one of them, drawn at random. All draws depend on the seed, the side and the number of the block alone.
"""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from fairseq_kd.noise.options import OPERATIONS, NoiseOptions
from fairseq_kd.noise.rewrite import Left, rewrite
from fairseq_kd.noise.units import Units
from fairseq_kd.noise.vocabulary import Vocabulary

BLOCK_LINES = 4096  # part of what a seed means: another number gives other noise
CHOICE = 2  # purposes of random numbers, beside the sides 0 and 1


@dataclass
class Counts:
    """How many units there were, could meet each operation, and met it. Sums over blocks."""

    lines: int = 0
    lines_without_units: int = 0  # they stay as they are
    lines_unsegmented: int = 0  # of a script without spaces, so that their words cannot be told
    lines_chosen: int = 0  # by sentence_share
    lines_changed: int = 0
    units: int = 0  # but for protected ones
    protected: dict = field(default_factory=dict)  # how often each protected word stands there
    lines_kept_from_vanishing: int = 0  # all of their units were drawn for deletion
    possible: dict = field(default_factory=lambda: dict.fromkeys(OPERATIONS, 0))
    done: dict = field(default_factory=lambda: dict.fromkeys(OPERATIONS, 0))

    def add(self, other: "Counts") -> None:
        """Add another block's."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if isinstance(value, dict):
                total = {key: mine.get(key, 0) + value.get(key, 0) for key in mine | value}
            else:
                total = mine + value
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
    in_active = np.repeat(active, per_line)
    if units.protected is not None:
        in_active &= ~units.protected
        per_line = units.per_line(units.free())
    drawn = _draw(in_active, options, rng)
    deleted, gone, spared = _spare(units, drawn["delete"], per_line, rng)
    left, substituted = Left(units, deleted, gone), drawn["substitute"]
    movable = _movable(units, left, gone)
    substitutes = None
    if len(substituted):
        substitutes = vocabulary.draw(units.pieces().take(pa.array(2 * substituted + 1)), rng)
    swapped = movable.with_right_neighbour(drawn["swap"])
    partners = movable.partners(swapped, options.swap_window, rng)
    data = rewrite(units, left, substituted, substitutes, swapped, partners)
    done = {"delete": deleted, "substitute": substituted, "swap": swapped}
    changed = (gone > 0) | (units.per_line(substituted) > 0) | (units.per_line(swapped) > 0)
    units_chosen = int(np.count_nonzero(in_active))
    counts = Counts(
        lines=len(per_line),
        lines_without_units=int((per_line == 0).sum()),
        lines_chosen=int(active.sum()),
        lines_changed=int(changed.sum()),
        lines_kept_from_vanishing=spared,
        units=int(per_line.sum()),
        protected=units.protected_words,
        possible={"delete": units_chosen, "substitute": units_chosen, "swap": movable.swappable(in_active)},
        done={name: len(numbers) for name, numbers in done.items()},
    )
    return Noised(data, changed, counts)


def _draw(in_active: np.ndarray, options: NoiseOptions, rng) -> dict[str, np.ndarray]:
    """Numbers of the units that are drawn for each operation, in order.

    in_active: bool (units,), which are in a line that gets noise, and not protected.
    """
    values = rng.random(len(in_active), dtype=np.float32)
    met = np.flatnonzero(values < options.total)
    met = met[in_active[met]]
    asked = [name for name in OPERATIONS if getattr(options, name)]
    if len(asked) == 1:  # nothing to tell apart
        return dict.fromkeys(OPERATIONS, met[:0]) | {asked[0]: met}
    values = values[met]
    is_deleted, is_below_swap = values < options.delete, values < options.delete + options.substitute
    if not options.swap:  # whatever rounding says
        is_below_swap[:] = True
    return {
        "delete": met[is_deleted],
        "substitute": met[is_below_swap & ~is_deleted],
        "swap": met[~is_below_swap],
    }


def _movable(units: Units, left: Left, gone: np.ndarray) -> Left:
    """Those left that can change places: units do so across a protected one, which keeps its place."""
    if units.protected is None:
        return left
    fixed = np.flatnonzero(units.protected)
    return Left(units, np.flatnonzero(left.is_deleted | units.protected), gone + units.per_line(fixed))


def _spare(units: Units, deleted: np.ndarray, per_line: np.ndarray, rng) -> tuple[np.ndarray, np.ndarray, int]:
    """(deleted, but for one unit of each line that would lose all, how many of each line, number of such lines).

    per_line: how many units each line has that are not protected.
    """
    gone = units.per_line(deleted)
    bare = np.flatnonzero((gone == per_line) & (per_line > 0))
    if len(bare):
        free = units.free()
        chosen = (rng.random(len(bare)) * per_line[bare]).astype(np.int64)
        kept = free[np.searchsorted(free, units.lines[bare]) + chosen]
        deleted = deleted[~np.isin(deleted, kept)]
        gone[bare] -= 1
    return deleted, gone, len(bare)

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

from fairseq_kd.noise.left import Left
from fairseq_kd.noise.options import OPERATIONS, NoiseOptions
from fairseq_kd.noise.rewrite import rewrite
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
    in_active = np.repeat(active, per_line)
    drawn = _draw(in_active, options, rng)
    deleted, gone, spared = _spare(units, drawn["delete"], per_line, rng)
    left, substituted = Left(units, deleted, gone), drawn["substitute"]
    substitutes = None
    if len(substituted):
        substitutes = vocabulary.draw(units.pieces().take(pa.array(2 * substituted + 1)), rng)
    swapped = left.with_right_neighbour(drawn["swap"])
    partners = left.partners(swapped, options.swap_window, rng)
    data = rewrite(units, left, substituted, substitutes, swapped, partners)
    done = {"delete": deleted, "substitute": substituted, "swap": swapped}
    changed = (gone > 0) | (units.per_line(substituted) > 0) | (units.per_line(swapped) > 0)
    units_chosen = int(per_line[active].sum())
    counts = Counts(
        lines=len(per_line),
        lines_without_units=int((per_line == 0).sum()),
        lines_chosen=int(active.sum()),
        lines_changed=int(changed.sum()),
        lines_kept_from_vanishing=spared,
        units=len(units),
        possible={"delete": units_chosen, "substitute": units_chosen, "swap": left.swappable(in_active)},
        done={name: len(numbers) for name, numbers in done.items()},
    )
    return Noised(data, changed, counts)


def _draw(in_active: np.ndarray, options: NoiseOptions, rng) -> dict[str, np.ndarray]:
    """Numbers of the units that are drawn for each operation, in order.

    in_active: bool (units,), which are in a line that gets noise.
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


def _spare(units: Units, deleted: np.ndarray, per_line: np.ndarray, rng) -> tuple[np.ndarray, np.ndarray, int]:
    """(deleted, but for one unit of each line that would lose all, how many of each line, number of such lines)."""
    gone = units.per_line(deleted)
    bare = np.flatnonzero((gone == per_line) & (per_line > 0))
    if len(bare):
        kept = units.lines[bare] + (rng.random(len(bare)) * per_line[bare]).astype(np.int64)
        deleted = deleted[~np.isin(deleted, kept)]
        gone[bare] -= 1
    return deleted, gone, len(bare)

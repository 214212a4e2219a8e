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

BLOCK_LINES = 2048  # part of what a seed means: another number gives other noise
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


def chosen_lines(options: NoiseOptions, seed: int, block: int, count: int) -> np.ndarray:
    """bool (count,): the lines of a block that get noise. The same on both sides of a corpus."""
    if options.sentence_share == 1:
        return np.ones(count, dtype=bool)
    return np.random.default_rng([seed, CHOICE, block]).random(count) < options.sentence_share


def add_noise(
    units: Units, options: NoiseOptions, *, seed: int, side: int, block: int, vocabulary: Vocabulary | None
) -> Noised:
    """Noise in the block with number `block` of a side (0: source, 1: target).

    vocabulary: needed where options.substitute > 0.
    """
    rng = np.random.default_rng([seed, side, block])
    active = chosen_lines(options, seed, block, units.number_of_lines)
    first, per_line = units.first_and_count()
    counts = Counts(units.number_of_lines, int((per_line == 0).sum()), int(active.sum()), units=len(units))
    deleted, substituted, swapping = _draw(units, options, active, first, per_line, rng, counts)
    alive = np.ones(len(units), dtype=bool)
    alive[deleted] = False
    left = np.flatnonzero(alive)
    content, pieces = np.arange(1, 2 * len(units), 2), units.pieces()
    if len(substituted):
        replaced = pieces.take(pa.array(content[substituted]))
        content[substituted] = len(pieces) + np.arange(len(substituted))
        pieces = pa.concat_arrays([pieces, vocabulary.draw(replaced, rng)])
    order = left.copy()
    if len(swapping):
        together = units.groups[left[1:]] == units.groups[left[:-1]]  # with the unit to the right
        swapping = (np.cumsum(alive) - 1)[swapping]  # places among those that are left
        swapping = swapping[np.append(together, False)[swapping]]
        _swap(order, swapping, together, options.swap_window, rng)
    changed = np.zeros(units.number_of_lines, dtype=bool)
    for met in (deleted, substituted, left[swapping]):
        changed[units.lines[met]] = True
    counts.lines_changed = int(changed.sum())
    _count(counts, units, active, left, dict(delete=deleted, substitute=substituted, swap=swapping))
    written = np.zeros(2 * len(left) + 1, dtype=np.int64)  # which piece comes next; 0 is the prefix
    written[1::2] = content[order]
    written[2::2] = 2 * _gaps_behind(units, left, first + per_line - 1) + 2
    data = np.frombuffer(pieces.take(pa.array(written)).buffers()[2], np.uint8)
    return Noised(data, changed, counts)


def _draw(units: Units, options: NoiseOptions, active, first, per_line, rng, counts: Counts):
    """Numbers of the units to delete, to replace and to swap."""
    spare = rng.random(units.number_of_lines)
    drawn = rng.random(len(units), dtype=np.float32)
    met = np.flatnonzero(drawn < options.total)
    met = met[active[units.lines[met]]]
    values = drawn[met]
    deleted = met[values < options.delete]
    rest, values = met[values >= options.delete], values[values >= options.delete]
    is_substituted = values < options.delete + options.substitute if options.swap else np.ones(len(rest), dtype=bool)
    gone = np.bincount(units.lines[deleted], minlength=units.number_of_lines)
    bare = np.flatnonzero((gone == per_line) & (per_line > 0))
    kept = first[bare] + (spare[bare] * per_line[bare]).astype(np.int64)
    counts.lines_kept_from_vanishing = len(bare)
    return np.setdiff1d(deleted, kept, assume_unique=True), rest[is_substituted], rest[~is_substituted]


def _swap(order: np.ndarray, places: np.ndarray, together: np.ndarray, window: int, rng) -> None:
    """Let each of `places` change places with one to its right, from left to right, in `order`.

    together: bool (len(order) - 1,), which places may change with the next one.
    """
    if window == 1:
        heads = places[np.diff(places, prepend=-2) > 1]  # the first of each run of neighbours moves behind the run
        tails = places[np.diff(places, append=len(order) + 1) > 1]
        moved = order[heads]
        order[places] = order[places + 1]
        order[tails + 1] = moved
        return
    ends = np.append(np.flatnonzero(~together), len(together))  # the last place of each group
    reach = np.minimum(window, ends[np.searchsorted(ends, places)] - places)
    partners = places + 1 + (rng.random(len(places)) * reach).astype(np.int64)
    for here, there in zip(places.tolist(), partners.tolist(), strict=True):
        order[here], order[there] = order[there], order[here]


def _gaps_behind(units: Units, left: np.ndarray, last_of_line: np.ndarray) -> np.ndarray:
    """Whose gap follows each unit that is left: its own, or the first one that is not empty before the next unit.

    The last of a line is followed by the end of the line.
    """
    if len(left) == len(units):
        return left
    filled = np.flatnonzero(units.edges[3::2] > units.edges[2:-1:2])
    own = np.append(filled, len(units))[np.searchsorted(filled, left)]
    gaps = np.where(own < np.append(left[1:], len(units)), own, left)
    lines = units.lines[left]
    ends = np.append(lines[1:] != lines[:-1], True)
    gaps[ends] = last_of_line[lines[ends]]
    return gaps


def _count(counts: Counts, units: Units, active, left, done: dict) -> None:
    """What could have met each operation: a swap needs a unit to the right that is left."""
    units_chosen = int(active[units.lines].sum())
    ends = left[np.append(units.groups[left[1:]] != units.groups[left[:-1]], True)[: len(left)]]
    starts = np.flatnonzero(np.diff(units.groups, prepend=-1))
    before_ends = ends - starts[np.searchsorted(starts, ends, side="right") - 1]
    swappable = int(before_ends[active[units.lines[ends]]].sum())
    counts.possible = dict(delete=units_chosen, substitute=units_chosen, swap=swappable)
    counts.done = {name: len(units) for name, units in done.items()}

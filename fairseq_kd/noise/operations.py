"""The operations of noise, and how the units of one block of lines meet them.

A unit is a word, a subword or a character. Each unit of a block is drawn for one operation or for none, independently
of all other units. Then the operations are applied in this order:

    delete        the unit is removed together with the gap behind it (the last unit of a line: the gap before it)
    substitute    another unit replaces it
    swap          from left to right, the unit changes places with a remaining unit to its right, at most `swap_window`
                  remaining units away; a character only changes places within its word

Protected units meet no operation, keep their places, and do not count: the other units are treated as if the line
consisted of them alone.

The other gaps keep their places, so a line without any operation stays the same byte for byte. A line that would lose
all of its units keeps one of them, drawn at random. All draws depend only on the seed, the side and the number of the
block.
"""

from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa

from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.text import normalise_spaces
from fairseq_kd.noise.rewrite import Remaining, rewrite
from fairseq_kd.noise.units import Units

LEVELS = ("word", "subword", "char")
SUBSTITUTES = ("unigram", "uniform")
OPERATIONS = ("delete", "substitute", "swap")
TOKENIZERS = ("spaces", "char")
BLOCK_LINES = 4096  # part of what a seed means: another number gives other noise
CHOICE = 2  # third stream of random numbers: which lines get noise; the sides use the streams 0 and 1


@dataclass(frozen=True)
class NoiseOptions:
    """Rates are shares of all units, 0 to 1; each unit meets at most one operation.

    Raises KDError on construction for values out of range and for options without effect.
    """

    delete: float = 0.0
    substitute: float = 0.0
    swap: float = 0.0
    swap_window: int = 1  # how many remaining units to its right a unit may change places with
    substitute_from: str = "unigram"
    level: str = "word"
    sentence_share: float = 1.0  # share of the sentences that get any noise
    word_tokenizer: str = "spaces"  # "char": each character of a script without spaces is a separate word
    protect: tuple[str, ...] = ()  # words that no operation changes or inserts; the rates do not count them

    def __post_init__(self):
        for name in (*OPERATIONS, "sentence_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise KDError(f"{_option(name)} {getattr(self, name)}: must be between 0 and 1")
        if self.total == 0 or self.sentence_share == 0:
            raise KDError("no noise is requested: give --delete, --substitute or --swap above 0")
        if self.total > 1 + 1e-9:
            raise KDError(
                f"--delete {self.delete:g}, --substitute {self.substitute:g} and --swap {self.swap:g} sum to "
                f"{self.total:g}: each is a share of all units, and a unit meets at most one operation, so their sum "
                "must not exceed 1"
            )
        for name, known in (
            ("level", LEVELS),
            ("substitute_from", SUBSTITUTES),
            ("word_tokenizer", TOKENIZERS),
        ):
            if getattr(self, name) not in known:
                raise KDError(f"{_option(name)} {getattr(self, name)}: must be one of {', '.join(known)}")
        if self.swap_window < 1:
            raise KDError(f"--swap-window {self.swap_window}: must be at least 1")
        if self.swap_window > 1 and not self.swap:
            raise KDError(f"--swap-window {self.swap_window} has no effect without --swap")
        if self.substitute_from != "unigram" and not self.substitute:
            raise KDError(f"--substitute-from {self.substitute_from} has no effect without --substitute")
        if self.word_tokenizer != "spaces" and self.level != "word":
            raise KDError(f"--word-tokenizer {self.word_tokenizer} has no effect with --level {self.level}")
        object.__setattr__(self, "protect", tuple(sorted(set(self.protect or ()))))
        for symbol in self.protect:
            if not symbol or normalise_spaces(symbol) != symbol or " " in symbol:
                raise KDError(f"--protect {symbol!r}: must be a word without spaces, spelt as in the text")

    @property
    def total(self) -> float:
        """The share of units that meet an operation."""
        return self.delete + self.substitute + self.swap

    def as_dict(self) -> dict:
        """The options for the manifest. Options that were added to its format later appear only where they are used."""
        values = asdict(self) | {"protect": list(self.protect)}
        unused = {"word_tokenizer": "spaces", "protect": []}
        return {name: value for name, value in values.items() if name not in unused or value != unused[name]}


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


@dataclass
class Counts:
    """How many units a block has, how many could meet each operation, and how many met it. Sums over blocks."""

    lines: int = 0
    lines_without_units: int = 0  # these lines do not change
    lines_unsegmented: int = 0  # lines in a script without spaces whose words are unknown
    lines_chosen: int = 0  # lines that sentence_share selects
    lines_changed: int = 0
    units: int = 0  # without protected units
    protected: dict = field(default_factory=dict)  # protected word -> how often it occurs
    lines_kept_from_vanishing: int = 0  # lines whose units were all drawn for deletion
    possible: dict = field(default_factory=lambda: dict.fromkeys(OPERATIONS, 0))
    done: dict = field(default_factory=lambda: dict.fromkeys(OPERATIONS, 0))

    def add(self, other: "Counts") -> None:
        """Add the counts of another block."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if isinstance(value, dict):
                total = {key: mine.get(key, 0) + value.get(key, 0) for key in mine | value}
            else:
                total = mine + value
            setattr(self, name, total)


@dataclass(frozen=True)
class Noised:
    """data: the block with noise, uint8. changed: bool (lines,), which lines met an operation. counts: see `Counts`."""

    data: np.ndarray
    changed: np.ndarray
    counts: Counts


def chosen_lines(options: NoiseOptions, seed: int, number: int, count: int) -> np.ndarray:
    """bool (count,): which lines of a block get noise. Both sides of a corpus have the same chosen lines."""
    if options.sentence_share == 1:
        return np.ones(count, dtype=bool)
    return np.random.default_rng([seed, CHOICE, number]).random(count) < options.sentence_share


def add_noise(units: Units, options: NoiseOptions, *, seed: int, side: int, number: int, vocabulary) -> Noised:
    """Add noise to the block with this number of a side (0: source, 1: target).

    vocabulary: a `side.Vocabulary`; None where options.substitute is 0.
    """
    rng = np.random.default_rng([seed, side, number])
    per_line = np.diff(units.lines)
    active = chosen_lines(options, seed, number, len(per_line))
    in_active = np.repeat(active, per_line)
    if units.protected is not None:
        in_active &= ~units.protected
        per_line = units.per_line(units.free())
    drawn = _draw(in_active, options, rng)
    deleted, deleted_per_line, kept = _keep_one_per_line(units, drawn["delete"], per_line, rng)
    remaining, substituted = Remaining(units, deleted, deleted_per_line), drawn["substitute"]
    movable = _movable(units, remaining, deleted_per_line)
    substitutes = None
    if len(substituted):
        substitutes = vocabulary.draw(units.pieces().take(pa.array(2 * substituted + 1)), rng)
    swapped = movable.with_right_neighbour(drawn["swap"])
    partners = movable.partners(swapped, options.swap_window, rng)
    data = rewrite(units, remaining, substituted, substitutes, swapped, partners)
    done = {"delete": deleted, "substitute": substituted, "swap": swapped}
    changed = (deleted_per_line > 0) | (units.per_line(substituted) > 0) | (units.per_line(swapped) > 0)
    units_chosen = int(np.count_nonzero(in_active))
    counts = Counts(
        lines=len(per_line),
        lines_without_units=int((per_line == 0).sum()),
        lines_chosen=int(active.sum()),
        lines_changed=int(changed.sum()),
        lines_kept_from_vanishing=kept,
        units=int(per_line.sum()),
        protected=units.protected_words,
        possible={"delete": units_chosen, "substitute": units_chosen, "swap": movable.swappable(in_active)},
        done={name: len(numbers) for name, numbers in done.items()},
    )
    return Noised(data, changed, counts)


def _draw(in_active: np.ndarray, options: NoiseOptions, rng) -> dict[str, np.ndarray]:
    """Operation -> numbers of the units that are drawn for it, in order.

    in_active: bool (units,), the units that are not protected and whose line gets noise.
    """
    values = rng.random(len(in_active), dtype=np.float32)
    met = np.flatnonzero(values < options.total)
    met = met[in_active[met]]
    requested = [name for name in OPERATIONS if getattr(options, name)]
    if len(requested) == 1:  # all drawn units meet the same operation
        return dict.fromkeys(OPERATIONS, met[:0]) | {requested[0]: met}
    values = values[met]
    is_deleted, is_below_swap = values < options.delete, values < options.delete + options.substitute
    if not options.swap:  # rounding must not give a unit to swap
        is_below_swap[:] = True
    return {
        "delete": met[is_deleted],
        "substitute": met[is_below_swap & ~is_deleted],
        "swap": met[~is_below_swap],
    }


def _movable(units: Units, remaining: Remaining, deleted_per_line: np.ndarray) -> Remaining:
    """The remaining units that can change places. Two units can do so across a protected unit, which does not move."""
    if units.protected is None:
        return remaining
    fixed = np.flatnonzero(units.protected)
    removed = np.flatnonzero(remaining.is_deleted | units.protected)
    return Remaining(units, removed, deleted_per_line + units.per_line(fixed))


def _keep_one_per_line(
    units: Units, deleted: np.ndarray, per_line: np.ndarray, rng
) -> tuple[np.ndarray, np.ndarray, int]:
    """(units to delete, how many of them each line has, number of lines that would have lost all units).

    One unit, drawn at random, is kept in each line that would lose all units.
    per_line: how many unprotected units each line has.
    """
    deleted_per_line = units.per_line(deleted)
    empty = np.flatnonzero((deleted_per_line == per_line) & (per_line > 0))
    if len(empty):
        free = units.free()
        chosen = (rng.random(len(empty)) * per_line[empty]).astype(np.int64)
        kept = free[np.searchsorted(free, units.lines[empty]) + chosen]
        deleted = deleted[~np.isin(deleted, kept)]
        deleted_per_line[empty] -= 1
    return deleted, deleted_per_line, len(empty)

"""One side of a corpus: count its units, then add noise to its blocks, in any number of processes.

The counted units form a `Vocabulary`, from which substitutes are drawn.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.process import call, forked_workers
from fairseq_kd.noise.operations import OPERATIONS, Counts, Noised, NoiseOptions
from fairseq_kd.noise.text_level import LARGEST_SHARE, UnsegmentedText

SIDES = ("source", "target")
EXAMPLES = 5  # changed lines that the manifest shows
COUNTED_AT_ONCE = 2**23  # bytes per call of a worker
ROWS_ADDED_AT_ONCE = 2**20
NO_COUNTS = pa.table({"unit": pa.array([], pa.binary()), "count": pa.array([], pa.int64())})


def add_counts(tables: list[pa.Table]) -> pa.Table:
    """The sum of several tables of `units.count_units`, with one row per unit."""
    added = pa.concat_tables(tables).group_by("unit", use_threads=False).aggregate([("count", "sum")])
    return pa.table({"unit": added["unit"], "count": added["count_sum"]})


@dataclass(frozen=True)
class Vocabulary:
    """The different units of a text by frequency, and random substitutes from them.

    Units of the same frequency form a class, so a draw searches a few thousand classes instead of all units. A draw is
    the number of an occurrence: occurrences are numbered class by class, and within a class unit by unit.
    units: binary (different units,), the most frequent first. The other arrays are int64 (classes,).
    """

    units: pa.Array
    frequency: np.ndarray  # occurrences of each unit of the class
    first_unit: np.ndarray  # number of the first unit of the class
    first_occurrence: np.ndarray  # number of the first occurrence of the class
    occurrences: int  # the sum over all units

    @classmethod
    def of(cls, counts: pa.Table, substitute_from: str, where: str) -> "Vocabulary":
        """The vocabulary of the counts of `add_counts`, drawn by frequency ("unigram") or uniformly ("uniform").

        where: the text, for error messages. Raises KDError for fewer than two different units.
        """
        if len(counts) < 2:
            raise KDError(
                f"{where} holds {len(counts)} different units, so no substitute exists: a unit is never replaced by "
                "itself; leave --substitute out"
            )
        counts = counts.sort_by([("count", "descending"), ("unit", "ascending")]).combine_chunks()
        frequencies = counts["count"].to_numpy() if substitute_from == "unigram" else np.ones(len(counts), np.int64)
        first_unit = np.flatnonzero(np.diff(frequencies, prepend=0))
        before = np.cumsum(frequencies) - frequencies
        units = counts["unit"].chunk(0)
        return cls(units, frequencies[first_unit], first_unit, before[first_unit], int(frequencies.sum()))

    def draw(self, replaced: pa.Array, rng: np.random.Generator) -> pa.Array:
        """A random substitute for each of the units `replaced`, which is never the unit itself.

        It is drawn from the distribution of the vocabulary without the replaced unit: where the first draw gives the
        unit itself, a second draw leaves its occurrences out.
        """
        numbers, own_class = self._units_at(rng.integers(self.occurrences, size=len(replaced)))
        drawn = self.units.take(pa.array(numbers))
        same = np.flatnonzero(pc.equal(drawn, replaced))
        if len(same) == 0:
            return drawn
        own = own_class[same]
        share = self.frequency[own]
        begin = self.first_occurrence[own] + (numbers[same] - self.first_unit[own]) * share
        others = rng.integers(self.occurrences - share)
        numbers[same], _ = self._units_at(np.where(others < begin, others, others + share))
        return self.units.take(pa.array(numbers))

    def _units_at(self, occurrences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(numbers of the units that have these occurrences, their classes)."""
        classes = np.searchsorted(self.first_occurrence, occurrences, side="right") - 1
        within = (occurrences - self.first_occurrence[classes]) // self.frequency[classes]
        return self.first_unit[classes] + within, classes


class Level(Protocol):
    """How blocks are cut into units: `TextLevel` for text, `TokenLevel` for token ids."""

    options: NoiseOptions

    def count(self, block: bytes) -> pa.Table:
        """How often each unit of a block occurs; see `units.count_units`."""

    def noise(self, block: bytes, **where) -> Noised:
        """The block with noise. where: the keyword arguments of `add_noise`."""

    def lines(self, block: bytes) -> list[str]:
        """The sentences of a block as readable text."""


class NoisySide:
    """Counts the units of one side, adds noise to its blocks, and reports what was done."""

    def __init__(self, level: Level, seed: int, side: str, workers: int = 1):
        """Raises KDError for a negative seed, an unknown side, and fewer workers than one."""
        if seed < 0:
            raise KDError(f"--seed {seed}: must be 0 or above")
        if side not in SIDES:
            raise KDError(f"side {side!r}: must be one of {', '.join(SIDES)}")
        if workers < 1:
            raise KDError(f"--workers {workers}: must be at least 1")
        self.level, self.seed, self.side, self.workers = level, seed, side, workers
        self.counts, self.examples, self.vocabulary = Counts(), [], None
        self._numbers = itertools.count()  # the numbers of the blocks

    def count(self, blocks: Iterable[bytes], name: str) -> None:
        """Count the units of all blocks and build the vocabulary of substitutes. name: the text, for error messages.

        Raises KDError when the blocks hold fewer than two different units.
        """
        tables = [NO_COUNTS]
        for _, counts in _in_order(self.level.count, _joined(blocks), self.workers):
            tables.append(counts)
            if sum(map(len, tables[1:])) > len(tables[0]) + ROWS_ADDED_AT_ONCE:
                tables = [add_counts(tables)]
        self.vocabulary = Vocabulary.of(add_counts(tables), self.level.options.substitute_from, name)

    def noise(self, blocks: Iterable[bytes]) -> Iterator[tuple[bytes, Noised]]:
        """Yield (original block, block with noise) in order. The noise does not depend on the number of workers.

        Another call, for a further file of the same side, continues the numbers of the blocks and the counts.
        Raises UnsegmentedText when too many lines are not segmented into words.
        """
        numbered = ((block, next(self._numbers)) for block in blocks)
        for (block, number), noised in _in_order(self._noise, numbered, self.workers):
            self.counts.add(noised.counts)
            if number == 0:
                self.examples = self._examples(block, noised)
            yield block, noised
        self._check_segmented()

    def report(self) -> dict:
        """The counts, rates and examples for the manifest."""
        counts = asdict(self.counts)
        possible, done = counts.pop("possible"), counts.pop("done")
        rates = {
            name: {
                "asked": getattr(self.level.options, name),
                "realised": done[name] / possible[name] if possible[name] else None,
                "done": done[name],
                "possible": possible[name],
            }
            for name in OPERATIONS
        }
        different_units = None if self.vocabulary is None else len(self.vocabulary.units)
        return counts | {"rates": rates, "types": different_units, "examples": self.examples}

    def _check_segmented(self) -> None:
        found, lines = self.counts.lines_unsegmented, self.counts.lines
        if found > LARGEST_SHARE * lines:
            raise UnsegmentedText(
                f"{found:,} of {lines:,} {self.side} sentences are in a script without spaces (Chinese, Japanese, "
                "Thai, ...) and not segmented into words, so a word would be a whole sentence"
            )

    def _noise(self, item: tuple[bytes, int]) -> Noised:
        block, number = item
        side = SIDES.index(self.side)
        return self.level.noise(block, seed=self.seed, side=side, number=number, vocabulary=self.vocabulary)

    def _examples(self, block: bytes, noised: Noised) -> list[dict]:
        before, after = self.level.lines(block), self.level.lines(noised.data.tobytes())
        numbers = np.flatnonzero(noised.changed)[:EXAMPLES].tolist()
        return [{"line": n + 1, "before": before[n], "after": after[n]} for n in numbers]


def _joined(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Larger blocks of the same lines. The counts do not depend on how the lines are cut into blocks."""
    waiting, size = [], 0
    for block in blocks:
        waiting.append(block)
        size += len(block)
        if size >= COUNTED_AT_ONCE:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def _in_order(function: Callable, items: Iterable, workers: int) -> Iterator[tuple]:
    """Yield (item, function(item)) in order, computed by `workers` processes. At most 2 * workers + 1 items wait."""
    if workers == 1:
        for item in items:
            yield item, function(item)
        return
    with forked_workers(function, workers) as pool:  # they share the memory of the vocabulary
        running = deque()
        try:
            for item in items:
                running.append((item, pool.submit(call, item)))
                if len(running) > 2 * workers:
                    first, future = running.popleft()
                    yield first, future.result()
            while running:
                first, future = running.popleft()
                yield first, future.result()
        finally:
            for _, future in running:
                future.cancel()

"""One side of a corpus: its units are counted, then its blocks get noise, in any number of processes.

Noise in a list of sentences, in memory: evaluation sets.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from typing import Protocol

import numpy as np
import pyarrow as pa

from fairseq_kd.core.errors import KDError
from fairseq_kd.noise.block import BLOCK_LINES, Counts, Noised
from fairseq_kd.noise.options import OPERATIONS, NoiseOptions
from fairseq_kd.noise.text_level import LARGEST_SHARE, TextLevel, UnsegmentedText
from fairseq_kd.noise.vocabulary import Vocabulary, add_counts

SIDES = ("source", "target")
EXAMPLES = 5  # in the manifest
COUNTED_AT_ONCE = 2**23  # bytes
ROWS_ADDED_AT_ONCE = 2**20
NO_COUNTS = pa.table({"unit": pa.array([], pa.binary()), "count": pa.array([], pa.int64())})


class Level(Protocol):
    """What blocks are made of: `TextLevel`, `TokenLevel`."""

    options: NoiseOptions

    def count(self, block: bytes) -> pa.Table:
        """How often each unit of a block occurs, see `count_units`."""

    def noise(self, block: bytes, **where) -> Noised:
        """The block with noise; where: see `add_noise`."""

    def lines(self, block: bytes) -> list[str]:
        """The sentences of a block, to be read by people."""


class NoisySide:
    """Counts the units of a side, gives it noise, and reports."""

    def __init__(self, level: Level, seed: int, side: str, workers: int = 1):
        """Raises KDError for a negative seed, an unknown side and no workers."""
        if seed < 0:
            raise KDError(f"--seed {seed}: must be 0 or above")
        if side not in SIDES:
            raise KDError(f"side {side!r}: must be one of {', '.join(SIDES)}")
        if workers < 1:
            raise KDError(f"--workers {workers}: must be at least 1")
        self.level, self.seed, self.side, self.workers = level, seed, side, workers
        self.counts, self.examples, self.vocabulary = Counts(), [], None
        self._numbers = itertools.count()  # of blocks

    def count(self, blocks: Iterable[bytes], name: str) -> None:
        """Count the units of all blocks, for substitutes; name: of messages.

        Raises KDError when there is nothing to substitute by.
        """
        tables = [NO_COUNTS]
        for _, counts in _in_order(self.level.count, _joined(blocks), self.workers):
            tables.append(counts)
            if sum(map(len, tables[1:])) > len(tables[0]) + ROWS_ADDED_AT_ONCE:
                tables = [add_counts(tables)]
        self.vocabulary = Vocabulary.of(add_counts(tables), self.level.options.substitute_from, name)

    def noise(self, blocks: Iterable[bytes]) -> Iterator[tuple[bytes, Noised]]:
        """Each block as it was and with noise, in order. The noise does not depend on the number of workers.

        Called again, for further files of the side, it counts on.
        Raises KDError when the words of the text cannot be told.
        """
        numbered = ((block, next(self._numbers)) for block in blocks)
        for (block, number), noised in _in_order(self._noise, numbered, self.workers):
            self.counts.add(noised.counts)
            if number == 0:
                self.examples = self._examples(block, noised)
            yield block, noised
        self._check_segmented()

    def report(self) -> dict:
        """For the manifest."""
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
        types = None if self.vocabulary is None else len(self.vocabulary.units)
        return counts | {"rates": rates, "types": types, "examples": self.examples}

    def _check_segmented(self) -> None:
        found, lines = self.counts.lines_unsegmented, self.counts.lines
        if found > LARGEST_SHARE * lines:
            raise UnsegmentedText(
                f"{found:,} of {lines:,} {self.side} sentences are of a script without spaces (Chinese, Japanese, "
                "Thai, ...) and not segmented, so that a word would be a whole sentence"
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
    """Larger blocks: what is counted is the same however it is cut."""
    waiting, size = [], 0
    for block in blocks:
        waiting.append(block)
        size += len(block)
        if size >= COUNTED_AT_ONCE:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


_function: Callable | None = None  # of a worker


def _set_function(function: Callable) -> None:
    global _function
    _function = function


def _call(item):
    return _function(item)


def _in_order(function: Callable, items: Iterable, workers: int) -> Iterator[tuple]:
    """(item, function(item)) in order, by so many processes; a few items are read ahead, however many there are."""
    if workers == 1:
        for item in items:
            yield item, function(item)
        return
    # forked, so that the vocabulary is shared
    with ProcessPoolExecutor(workers, get_context("fork"), _set_function, (function,)) as pool:
        running = deque()
        try:
            for item in items:
                running.append((item, pool.submit(_call, item)))
                if len(running) > 2 * workers:
                    first, future = running.popleft()
                    yield first, future.result()
            while running:
                first, future = running.popleft()
                yield first, future.result()
        finally:
            for _, future in running:
                future.cancel()


def noise_lines(
    lines: Sequence[str], options: NoiseOptions, seed: int, *, side: str = "source", subword=None, like=None
) -> list[str]:
    """The lines with noise, as `fairseq-kd noise` gives them to a file that holds them; see `noise_and_count`."""
    return noise_and_count(lines, options, seed, side=side, subword=subword, like=like)[0]


def noise_and_count(
    lines: Sequence[str], options: NoiseOptions, seed: int, *, side: str = "source", subword=None, like=None
) -> tuple[list[str], dict]:
    """(the lines with noise, what was done: `NoisySide.report`).

    subword: a model of `corpus.subword`, for level subword. like: lines whose units are the substitutes (default: the
    lines themselves). Raises KDError for a negative seed, and when there is nothing to substitute by.
    """
    if any("\n" in line for line in lines):
        raise KDError("a sentence holds a newline: each must be one line")
    noisy = NoisySide(TextLevel(options, subword), seed, side)
    if options.substitute:
        noisy.count(_blocks(lines if like is None else like), "the text")
    found = [
        line for _, noised in noisy.noise(_blocks(lines)) for line in noised.data.tobytes().decode().split("\n")[:-1]
    ]
    return found, noisy.report()


def _blocks(lines: Sequence[str]):
    for at in range(0, len(lines), BLOCK_LINES):
        yield "".join([line + "\n" for line in lines[at : at + BLOCK_LINES]]).encode()

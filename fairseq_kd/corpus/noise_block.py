"""Noise in one block of lines, in arrays: no loop over words.

A block is bytes; words are runs of anything but ASCII white space (at character level: UTF-8 characters with the
combining marks U+0300 to U+036F behind them). In this order, each word independently of all others:

    deleted        with probability p; of a line that would lose all its words, one drawn at random stays
    substituted    with probability p by a word drawn from a vocabulary, never by itself
    swapped        with probability p with its right neighbour (or one up to `window` to the right), from left to
                   right, so that a word that was moved can be moved again

A line that held a word holds one afterwards; a line without stays empty. Words end up with one space between them.
"""

from dataclasses import dataclass, field

import numpy as np

NEWLINE = 10
GAPS = np.zeros(256, dtype=bool)  # byte -> whether it stands between words
GAPS[[9, NEWLINE, 11, 12, 13, 32]] = True  # tab, newline, vertical tab, form feed, carriage return, space
TRIES = 100  # draws for a substitute that is not the word itself


@dataclass(frozen=True)
class NoiseRates:
    """Probabilities a word, 0 to 1; share: of the lines that get any noise; window: of a swap, in words."""

    delete: float = 0.0
    substitute: float = 0.0
    swap: float = 0.0
    window: int = 1
    share: float = 1.0


@dataclass(frozen=True)
class Vocabulary:
    """Words to substitute by: bytes of all, joined; where each starts; cumulative probabilities (words,)."""

    data: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    cumulative: np.ndarray

    @classmethod
    def of(cls, words: list[bytes], weights) -> "Vocabulary":
        """From words and their weights."""
        lengths = np.array([len(word) for word in words], dtype=np.int32)
        cumulative = np.cumsum(np.asarray(weights, dtype=np.float64))
        starts = np.cumsum(lengths, dtype=np.int32) - lengths
        return cls(np.frombuffer(b"".join(words), np.uint8), starts, lengths, cumulative / cumulative[-1])

    def draw(self, uniform: np.ndarray) -> np.ndarray:
        """Numbers of words for values drawn from [0, 1)."""
        return np.searchsorted(self.cumulative, uniform, side="right").clip(max=len(self.lengths) - 1)


@dataclass
class Counts:
    """What was done: numbers of lines, words, and of words for which each operation could have been and was drawn."""

    lines: int = 0
    empty_lines: int = 0
    words: int = 0
    delete: list[int] = field(default_factory=lambda: [0, 0])  # [possible, done]
    substitute: list[int] = field(default_factory=lambda: [0, 0])
    swap: list[int] = field(default_factory=lambda: [0, 0])
    kept_alone: int = 0  # lines of which all words were drawn for deletion

    def add(self, other: "Counts") -> None:
        """Add another block's."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            setattr(self, name, [a + b for a, b in zip(mine, value, strict=True)] if isinstance(mine, list) else mine + value)


@dataclass
class Segments:
    """Words as places in a buffer: starts, lengths and lines, each (words,)."""

    starts: np.ndarray
    lengths: np.ndarray
    lines: np.ndarray

    def take(self, which) -> "Segments":
        """Those chosen by a mask or by numbers."""
        return Segments(self.starts[which], self.lengths[which], self.lines[which])

    def __len__(self) -> int:
        return len(self.starts)


def add_noise(block: bytes, rates: NoiseRates, rng: np.random.Generator, vocabulary: Vocabulary | None = None):
    """(block with noise, Counts). block: whole lines, each ended by a newline.

    vocabulary: needed where rates.substitute > 0. The result depends on block, rates, vocabulary and the state of rng.
    """
    data = np.frombuffer(block, np.uint8)
    words = find_words(data)
    number_of_lines = int(np.count_nonzero(data == NEWLINE))
    counts = Counts(lines=number_of_lines, words=len(words))
    counts.empty_lines = number_of_lines - len(np.unique(words.lines))
    active = rng.random(number_of_lines) < rates.share if rates.share < 1 else np.ones(number_of_lines, dtype=bool)
    if rates.delete > 0:
        words = _delete(words, rates.delete, active, rng, counts)
    if rates.substitute > 0:
        words, data = _substitute(words, data, rates.substitute, active, rng, vocabulary, counts)
    if rates.swap > 0:
        words = _swap(words, rates, active, rng, counts)
    return _write(words, data, number_of_lines), counts


def find_words(data: np.ndarray) -> Segments:
    """The words of a block, in order."""
    gap = GAPS[data]
    edges = np.flatnonzero(np.diff(gap, prepend=True)).astype(np.int32)  # the block ends with a newline
    starts, ends = edges[0::2], edges[1::2]
    behind = np.searchsorted(starts, np.flatnonzero(data == NEWLINE).astype(np.int32))
    per_line = np.diff(behind, prepend=0)
    lines = np.repeat(np.arange(len(per_line), dtype=np.int32), per_line)
    return Segments(starts, ends - starts, lines)


def _delete(words: Segments, rate: float, active, rng, counts: Counts) -> Segments:
    possible = active[words.lines]
    gone = possible & (rng.random(len(words)) < rate)
    kept = np.bincount(words.lines[~gone], minlength=len(active))
    total = np.bincount(words.lines, minlength=len(active))
    spared = rng.random(len(active))  # drawn for every line, so that nothing depends on what was deleted
    bare = np.flatnonzero((kept == 0) & (total > 0))
    first = np.searchsorted(words.lines, bare)
    gone[first + (spared[bare] * total[bare]).astype(np.int64)] = False
    counts.kept_alone = len(bare)
    counts.delete = [int(possible.sum()), int(gone.sum())]
    return words.take(~gone)


def _substitute(words: Segments, data, rate: float, active, rng, vocabulary: Vocabulary, counts: Counts):
    possible = active[words.lines]
    chosen = np.flatnonzero(possible & (rng.random(len(words)) < rate))
    new = vocabulary.draw(rng.random(len(chosen)))
    for _ in range(TRIES):
        same = np.flatnonzero(_equal(words.take(chosen), data, new, vocabulary))
        if len(same) == 0:
            break
        new[same] = vocabulary.draw(rng.random(len(same)))
    else:  # the vocabulary holds (almost) nothing else
        chosen, new = np.delete(chosen, same), np.delete(new, same)
    starts, lengths = words.starts.copy(), words.lengths.copy()
    starts[chosen] = len(data) + vocabulary.starts[new]
    lengths[chosen] = vocabulary.lengths[new]
    counts.substitute = [int(possible.sum()), len(chosen)]
    return Segments(starts, lengths, words.lines), np.concatenate([data, vocabulary.data])


def _equal(words: Segments, data, new: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Which words are byte for byte those of the vocabulary that were drawn for them."""
    equal = words.lengths == vocabulary.lengths[new]
    same = np.flatnonzero(equal)
    if len(same):
        lengths = words.lengths[same]
        ours, theirs = (_gather(start, lengths) for start in (words.starts[same], vocabulary.starts[new[same]]))
        differs = data[ours] != vocabulary.data[theirs]
        equal[same] = ~np.logical_or.reduceat(differs, np.cumsum(lengths) - lengths)
    return equal


def _gather(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Places of the bytes of all segments, one segment behind the other."""
    begin = np.cumsum(lengths, dtype=np.int32) - lengths
    return np.repeat(starts - begin, lengths) + np.arange(int(lengths.sum()), dtype=np.int32)


def _swap(words: Segments, rates: NoiseRates, active, rng, counts: Counts) -> Segments:
    """Each word but the last of its line changes places with a right neighbour, from left to right."""
    last = np.concatenate([words.lines[1:] != words.lines[:-1], [True]]) if len(words) else np.zeros(0, dtype=bool)
    possible = active[words.lines] & ~last
    chosen = np.flatnonzero(possible & (rng.random(len(words)) < rates.swap))
    order = np.arange(len(words))
    counts.swap = [int(possible.sum()), len(chosen)]
    if rates.window == 1:
        order[chosen] = chosen + 1
        heads = chosen[np.diff(chosen, prepend=-2) > 1]  # the first of each run of neighbours moves behind the run
        tails = chosen[np.diff(chosen, append=len(words) + 1) > 1]
        order[tails + 1] = heads
    else:
        ends = np.searchsorted(words.lines, words.lines[chosen], side="right")
        reach = np.minimum(rates.window, ends - 1 - chosen)
        partners = chosen + 1 + (rng.random(len(chosen)) * reach).astype(np.int64)
        for here, there in zip(chosen.tolist(), partners.tolist(), strict=True):
            order[here], order[there] = order[there], order[here]
    moved = words.take(order)
    return Segments(moved.starts, moved.lengths, words.lines)


def _write(words: Segments, data: np.ndarray, number_of_lines: int) -> bytes:
    """The words with a space between them and a newline after each line, the empty ones too."""
    per_line = np.bincount(words.lines, minlength=number_of_lines)
    lengths = words.lengths + 1  # with what comes behind the word
    ends = np.cumsum(lengths)
    out = np.append(data, np.uint8(0))[_gather(words.starts, lengths)]
    out[ends - 1] = 32
    last = np.cumsum(per_line)[per_line > 0] - 1
    out[ends[last] - 1] = NEWLINE
    if np.all(per_line > 0):
        return out.tobytes()
    bytes_before = np.concatenate([[0], ends])[np.cumsum(per_line)]  # after each line
    return np.insert(out, bytes_before[per_line == 0], NEWLINE).tobytes()

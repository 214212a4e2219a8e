"""How long sentences are, where the script puts spaces between words and where it does not.

A side of a corpus is counted in words between spaces. Chinese, Japanese, Thai, Lao, Khmer and Burmese are written
without them, so that a whole sentence would count as one word: there a word is a number of characters that is fitted to
the other side. What a side is, its text says, not the code of its language: the first pairs of the file decide, so the
result depends neither on the number of processes nor on the rest of the corpus.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fairseq_kd.corpus.scripts import count_letters

HEAD_PAIRS = 1_000  # that decide
# From how many characters between spaces on, on average, a text in a script without spaces is not segmented. Segmented
# text has two characters to a Chinese or Japanese word, and five to seven to one of the scripts of South East Asia.
UNSEGMENTED, UNSEGMENTED_SOUTH_EAST_ASIAN = 3, 9


@dataclass(frozen=True)
class Lengths:
    """How each side is measured: None, words between spaces; else the number of characters that count as one word.

    Where both sides are without spaces, a "word" is one character of the source.
    """

    source: float | None = None
    target: float | None = None

    def of(self, source: str, target: str) -> tuple[float, float]:
        """The lengths of a pair in words, 0 for an empty side."""
        return _length(source, self.source), _length(target, self.target)

    def describe(self) -> tuple[str, str]:
        """How each side is measured, for the manifest and for people."""
        return tuple(
            "words" if per_word is None else f"characters, {per_word:.3g} to a word"
            for per_word in (self.source, self.target)
        )


def fit_lengths(pairs: Sequence[tuple[str, str]]) -> Lengths:
    """How the two sides of a corpus that begins with `pairs` are measured.

    Characters to a word: the median over the pairs of characters here for each word there.
    """
    unspaced = [is_unspaced([pair[side] for pair in pairs]) for side in (0, 1)]
    in_characters = Lengths(*(1.0 if side else None for side in unspaced))
    measured = [in_characters.of(*pair) for pair in pairs if all(pair)]
    if not any(unspaced) or not measured:
        return in_characters
    if unspaced[1]:
        return replace(in_characters, target=statistics.median(target / source for source, target in measured))
    return replace(in_characters, source=statistics.median(source / target for source, target in measured))


def is_unspaced(lines: Sequence[str]) -> bool:
    """Whether most letters of the lines are of scripts without spaces, and nobody has put spaces between the words."""
    letters, south_east_asian, others = count_letters(lines)
    characters = sum(map(_characters, lines))
    between_spaces = characters / max(1, sum(line.count(" ") + 1 for line in lines if line))
    longest = UNSEGMENTED_SOUTH_EAST_ASIAN if south_east_asian > others else UNSEGMENTED
    return 2 * (south_east_asian + others) > letters and between_spaces >= longest


def _length(line: str, per_word: float | None) -> float:
    if not line:
        return 0
    return line.count(" ") + 1 if per_word is None else _characters(line) / per_word


def _characters(line: str) -> int:
    return len(line) - line.count(" ")

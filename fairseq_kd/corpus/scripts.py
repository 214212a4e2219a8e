"""Writing systems without spaces between words, and lengths of sentences in any writing system.

Scripts that are written without spaces between words: Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan, ...

How long sentences are, where the script puts spaces between words and where it does not.

A side of a corpus is counted in words between spaces. Chinese, Japanese, Thai, Lao, Khmer and Burmese are written
without them, so that a whole sentence would count as one word: there a word is a number of characters that is fitted to
the other side. What a side is, its text says, not the code of its language: the first pairs of the file decide, so the
result depends neither on the number of processes nor on the rest of the corpus.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import regex

# SA: the scripts of South East Asia that UAX 14 breaks by dictionary; the others by the Unicode property scx, so that
# what they share, such as the ideographic full stop, is theirs too
SOUTH_EAST_ASIAN = r"\p{LB=SA}"
OTHERS = r"\p{scx=Hani}\p{scx=Hira}\p{scx=Kana}\p{scx=Bopo}\p{scx=Yiii}\p{scx=Tibt}"
LETTER = regex.compile(r"\p{L}")
SOUTH_EAST_ASIAN_LETTER = regex.compile(rf"[\p{{L}}&&[{SOUTH_EAST_ASIAN}]]", regex.V1)
OTHER_LETTER = regex.compile(rf"[\p{{L}}&&[{OTHERS}]]", regex.V1)  # of Chinese and Japanese, mostly
FIRST = 0x0E00  # the first code point of them; some tone marks before it belong to several scripts
CODE_POINTS = 0x110000
# UTF-8 of them begins with one of these bytes
LEADS = np.zeros(256, dtype=bool)
LEADS[[0xE0, 0xE1, *range(0xE3, 0xEB), 0xEF, 0xF0]] = True


def count_letters(lines: Iterable[str]) -> tuple[int, int, int]:
    """(letters, those of the scripts of South East Asia, those of the others without spaces)."""
    text = "".join(lines)
    return tuple(len(kind.findall(text)) for kind in (LETTER, SOUTH_EAST_ASIAN_LETTER, OTHER_LETTER))


@cache
def is_unspaced() -> np.ndarray:
    """bool (code points,): which are of these scripts."""
    return _table(rf"[{SOUTH_EAST_ASIAN}{OTHERS}]")


@cache
def letter_weights() -> np.ndarray:
    """uint8 (code points,): 1 for each of their letters, but 2 where a letter is more of a word.

    A word of segmented Chinese or Japanese has two letters on average, of the scripts of South East Asia four.
    """
    weights = _table(SOUTH_EAST_ASIAN_LETTER.pattern).astype(np.uint8)
    weights[_table(OTHER_LETTER.pattern)] = 2
    return weights


def code_points(block: bytes) -> np.ndarray:
    """uint32 (characters,) of UTF-8 text."""
    return np.frombuffer(block.decode().encode("utf-32-le"), np.uint32)


def may_hold_unspaced(data: np.ndarray) -> bool:
    """Whether UTF-8 bytes can be of these scripts. Quick, so that other text is not decoded."""
    return bool(data.size and data.max() >= 0xE0 and LEADS[data[data >= 0xE0]].any())


def _table(characters: str) -> np.ndarray:
    codes = np.arange(FIRST, CODE_POINTS, dtype="<u4")
    codes = codes[(codes < 0xD800) | (codes >= 0xE000)]  # surrogates are no characters
    found = np.zeros(CODE_POINTS, dtype=bool)
    for run in regex.finditer(f"{characters}+", codes.tobytes().decode("utf-32-le"), regex.V1):
        found[codes[run.start() : run.end()]] = True
    return found


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
    unspaced = [are_unsegmented([pair[side] for pair in pairs]) for side in (0, 1)]
    in_characters = Lengths(*(1.0 if side else None for side in unspaced))
    measured = [in_characters.of(*pair) for pair in pairs if all(pair)]
    if not any(unspaced) or not measured:
        return in_characters
    if unspaced[1]:
        return replace(in_characters, target=statistics.median(target / source for source, target in measured))
    return replace(in_characters, source=statistics.median(source / target for source, target in measured))


def are_unsegmented(lines: Sequence[str]) -> bool:
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

"""Writing systems without spaces between words, and the lengths of sentences in any writing system.

Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan and others are written without spaces between words.

The length of a sentence is its number of words between spaces. Without spaces a whole sentence would count as one word:
there a word is a number of characters, which is fitted to the other side of the corpus. The text of a side, not the
code of its language, tells whether it has spaces. The first pairs of the file decide, so the result depends neither on
the number of processes nor on the rest of the corpus.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import regex

# SA: the scripts of South East Asia, where UAX 14 finds line breaks by a dictionary. The other scripts are found by the
# Unicode property scx, so that characters which they share belong to them, such as the ideographic full stop.
SOUTH_EAST_ASIAN = r"\p{LB=SA}"
OTHERS = r"\p{scx=Hani}\p{scx=Hira}\p{scx=Kana}\p{scx=Bopo}\p{scx=Yiii}\p{scx=Tibt}"
LETTER = regex.compile(r"\p{L}")
SOUTH_EAST_ASIAN_LETTER = regex.compile(rf"[\p{{L}}&&[{SOUTH_EAST_ASIAN}]]", regex.V1)
OTHER_LETTER = regex.compile(rf"[\p{{L}}&&[{OTHERS}]]", regex.V1)  # mostly Chinese and Japanese
FIRST = 0x0E00  # their first code point; some tone marks before it belong to several scripts
CODE_POINTS = 0x110000
# the UTF-8 of these characters begins with one of these bytes
LEADS = np.zeros(256, dtype=bool)
LEADS[[0xE0, 0xE1, *range(0xE3, 0xEB), 0xEF, 0xF0]] = True


def count_letters(lines: Iterable[str]) -> tuple[int, int, int]:
    """(all letters, letters of the scripts of South East Asia, letters of the other scripts without spaces)."""
    text = "".join(lines)
    return tuple(len(kind.findall(text)) for kind in (LETTER, SOUTH_EAST_ASIAN_LETTER, OTHER_LETTER))


@cache
def is_unspaced() -> np.ndarray:
    """bool (code points,): whether each belongs to these scripts."""
    return _table(rf"[{SOUTH_EAST_ASIAN}{OTHERS}]")


@cache
def letter_weights() -> np.ndarray:
    """uint8 (code points,): the weight of a letter: 1 in South East Asia, 2 in the other scripts, 0 with spaces.

    On average a word of segmented Chinese or Japanese has two letters, a word in a script of South East Asia has four.
    """
    weights = _table(SOUTH_EAST_ASIAN_LETTER.pattern).astype(np.uint8)
    weights[_table(OTHER_LETTER.pattern)] = 2
    return weights


def code_points(block: bytes) -> np.ndarray:
    """uint32 (characters,) of UTF-8 text."""
    return np.frombuffer(block.decode().encode("utf-32-le"), np.uint32)


def may_hold_unspaced(data: np.ndarray) -> bool:
    """Whether UTF-8 bytes can hold these scripts. It is fast, so that other text need not be decoded."""
    return bool(data.size and data.max() >= 0xE0 and LEADS[data[data >= 0xE0]].any())


def _table(characters: str) -> np.ndarray:
    codes = np.arange(FIRST, CODE_POINTS, dtype="<u4")
    codes = codes[(codes < 0xD800) | (codes >= 0xE000)]  # surrogates are not characters
    found = np.zeros(CODE_POINTS, dtype=bool)
    for run in regex.finditer(f"{characters}+", codes.tobytes().decode("utf-32-le"), regex.V1):
        found[codes[run.start() : run.end()]] = True
    return found


HEAD_PAIRS = 1_000  # the first pairs, which decide
# A text in a script without spaces is not segmented if it has at least this many characters between spaces, on average.
# Segmented text has two characters per word in Chinese or Japanese, and five to seven in scripts of South East Asia.
UNSEGMENTED, UNSEGMENTED_SOUTH_EAST_ASIAN = 3, 9


@dataclass(frozen=True)
class Lengths:
    """How each side is measured. None: words between spaces; else the number of characters that count as one word.

    If both sides have no spaces, a "word" is one character of the source.
    """

    source: float | None = None
    target: float | None = None

    def of(self, source: str, target: str) -> tuple[float, float]:
        """The lengths of a pair in words, 0 for an empty side."""
        return _length(source, self.source), _length(target, self.target)

    def describe(self) -> tuple[str, str]:
        """How each side is measured, for the manifest and the report."""
        return tuple(
            "words" if per_word is None else f"characters, {per_word:.3g} to a word"
            for per_word in (self.source, self.target)
        )


def fit_lengths(pairs: Sequence[tuple[str, str]]) -> Lengths:
    """How the two sides of a corpus that begins with `pairs` are measured.

    Characters per word: the median, over the pairs, of characters on one side per word on the other.
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
    """Whether most letters of the lines belong to scripts without spaces, and the words are not separated by spaces."""
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

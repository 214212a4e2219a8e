"""Scripts that are written without spaces between words: Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan, ..."""

from collections.abc import Iterable
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

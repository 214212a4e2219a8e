"""The words of the sentences of one side, as numbers.

A word is a run of letters and digits, in lower case. Each character of a script without spaces is a word.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import regex

from fairseq_kd.corpus.scripts import OTHERS, SOUTH_EAST_ASIAN

UNSPACED = rf"[{SOUTH_EAST_ASIAN}{OTHERS}]"
WORD = regex.compile(rf"[\w&&{UNSPACED}]|[\w--{UNSPACED}]+", regex.V1)
ASCII_WORD = regex.compile(r"\w+", regex.A)  # the same for ASCII, and faster


def split_words(line: str) -> list[str]:
    """The words of a line."""
    return (ASCII_WORD if line.isascii() else WORD).findall(line.lower())


@dataclass(frozen=True)
class Words:
    """The words of sentences, as numbers of entries of a vocabulary.

    ids: int32 (words,), of all sentences in order. offsets: int64 (sentences + 1,), the first word of each sentence.
    vocabulary: the words by number. A word that the vocabulary lacks is not in `ids`.
    """

    ids: np.ndarray
    offsets: np.ndarray
    vocabulary: list[str]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def sentences(self) -> np.ndarray:
        """The number of the sentence of each word, (words,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """(sentence, word) of every different word of every sentence, in order of sentences, then of words."""
        size = max(1, len(self.vocabulary))
        found = np.unique(self.sentences() * size + self.ids)
        return found // size, found % size

    def in_sentences(self) -> np.ndarray:
        """In how many sentences each word of the vocabulary is, int64 (vocabulary,)."""
        return np.bincount(self.pairs()[1], minlength=len(self.vocabulary))

    def counts(self, parts: np.ndarray, number: int) -> np.ndarray:
        """How often each word is in each part, int64 (number of parts, vocabulary). parts: (sentences,)."""
        size = len(self.vocabulary)
        places = parts[self.sentences()] * size + self.ids
        return np.bincount(places, minlength=number * size).reshape(number, size)


class Vocabulary:
    """Numbers the words of a training set in the order in which they occur; other subsets use these numbers."""

    def __init__(self, symbols: Iterable[str] = ()):
        self.numbers = {word: number for number, word in enumerate(symbols)}

    def number(self, sentences: Iterable[list[str]], training: bool) -> Words:
        """The words of sentences as numbers. training: whether new words enter the vocabulary."""
        numbers, ids, offsets = self.numbers, array("i"), array("q", [0])
        for words in sentences:
            if training:
                ids.extend([numbers.setdefault(word, len(numbers)) for word in words])
            else:
                ids.extend([numbers[word] for word in words if word in numbers])
            offsets.append(len(ids))
        return Words(np.array(ids, np.int32), np.array(offsets, np.int64), list(numbers))

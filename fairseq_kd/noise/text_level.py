"""Noise in blocks of text, which are cut into words, characters or subwords.

Two properties of words are found here:

- Unsegmented lines are in a script without spaces, and no segmenter has put spaces into them. A "word" of such a line
  would be a whole sentence: it cannot be deleted, and a substitute would be another sentence. They are counted.
- Protected words are tags such as <BT> or __en__, separated by spaces. Noise must not change them.
"""

import contextlib
from collections import Counter
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.scripts import code_points, letter_weights, may_hold_unspaced
from fairseq_kd.corpus.text import SPACES
from fairseq_kd.noise.operations import Noised, NoiseOptions, add_noise
from fairseq_kd.noise.units import Units, count_units, find_characters, find_words, find_words_and_characters


class UnsegmentedText(KDError):
    """Too many lines are not segmented into words. Each command adds the remedy that it offers."""


@contextlib.contextmanager
def remedy_for_unsegmented():
    """Add the remedy to an `UnsegmentedText` that is raised inside: other units of the noise."""
    try:
        yield
    except UnsegmentedText as error:
        raise KDError(
            f"{error}; give --word-tokenizer char (each character of such a script is a word), or --level char or "
            "subword"
        ) from error


LONGEST = 11  # weighted letters per word; a line with a larger mean is unsegmented
LARGEST_SHARE = 0.1  # accepted share of unsegmented lines: a corpus from the web has a few lines in another script


def unsegmented_text(units: Units) -> int:
    """The number of unsegmented lines of a block of text."""
    if not may_hold_unspaced(units.data):
        return 0
    weights = letter_weights()[code_points(units.data.tobytes())]
    letters = np.flatnonzero(weights)
    places = np.flatnonzero((units.data & 0xC0) != 0x80)[letters]
    return unsegmented_lines(units, places, weights[letters])


def unsegmented_lines(units: Units, places: np.ndarray, weights: np.ndarray) -> int:
    """The number of lines whose mean word length is above LONGEST. places, weights: bytes of the letters, weights."""
    words = np.searchsorted(units.starts(), places, side="right") - 1
    lengths = np.bincount(words, weights, minlength=len(units))
    letters, with_letters = (np.append(0, np.cumsum(values))[units.lines] for values in (lengths, lengths > 0))
    return int((np.diff(letters) > LONGEST * np.diff(with_letters)).sum())


def protect(units: Units, block: bytes, words: Collection[str]) -> Units:
    """The units of a block of text, where each unit within one of `words` is marked as protected.

    block: the text from which the units are cut.
    """
    if not words:
        return units
    found = find_words(block)
    symbols = pa.array([word.encode() for word in words])
    numbers = np.flatnonzero(pc.is_in(found.pieces().take(pa.array(2 * found.free() + 1)), symbols))
    texts = [piece.decode() for piece in found.pieces().take(pa.array(2 * numbers + 1)).to_pylist()]
    return marked(units, found.edges[2 * numbers + 1], found.edges[2 * numbers + 2], texts, words)


def marked(units: Units, starts: np.ndarray, ends: np.ndarray, texts: list[str], words: Collection[str]) -> Units:
    """The units, where each unit that begins within one of the given spans is marked as protected.

    starts, ends: bytes of the spans, ascending. texts: the entry of `words` that each span holds.
    """
    places = units.starts()
    within = np.searchsorted(starts, places, side="right") > np.searchsorted(ends, places, side="right")
    return replace(units, protected=within, protected_words=dict.fromkeys(words, 0) | Counter(texts))


def cut_out(line: str, words: Collection[str]) -> list[str]:
    """The pieces of the line without the spaces between them: each is one of `words`, or text without any of them."""
    pieces = []
    for word in filter(None, SPACES.split(line)):
        if word in words or not pieces or pieces[-1] in words:
            pieces.append(word)
        else:
            pieces[-1] += f" {word}"
    return pieces


def check_subword(options: NoiseOptions, subword) -> None:
    """Raises KDError when a subword model is missing or would have no effect."""
    if options.level == "subword" and subword is None:
        raise KDError("--level subword on text needs --subword-model, which cuts the text into subwords")
    if options.level != "subword" and subword is not None:
        raise KDError(f"--subword-model has no effect with --level {options.level}")


def find_units(block: bytes, options: NoiseOptions) -> Units:
    """The units of a block of text. Subwords are the pieces between spaces of segmented text."""
    if options.level == "char":
        return find_characters(block)
    return find_words_and_characters(block) if options.word_tokenizer == "char" else find_words(block)


class TextLevel:
    """Levels word and char cut the text itself; level subword cuts the output of the subword model.

    A block is the UTF-8 bytes of whole lines, and every line ends with a newline.
    """

    def __init__(self, options: NoiseOptions, subword=None):
        """subword: a model of `corpus.subword`. Raises KDError when it is missing or has no effect."""
        check_subword(options, subword)
        self.options, self.subword = options, subword

    def count(self, block: bytes) -> pa.Table:
        """How often each unit of a block occurs; see `units.count_units`."""
        return count_units(self._units(block))

    def noise(self, block: bytes, **where) -> Noised:
        """The block with noise. where: the keyword arguments of `add_noise`."""
        units = self._units(block)
        noised = add_noise(units, self.options, **where)
        if self.options.level == "word" and self.options.word_tokenizer == "spaces":
            noised.counts.lines_unsegmented = unsegmented_text(units)
        return noised if self.subword is None else self._joined(block, noised)

    def lines(self, block: bytes) -> list[str]:
        """The sentences of a block."""
        return block.decode().split("\n")[:-1]

    def _units(self, block: bytes) -> Units:
        if self.subword is not None:
            block = "".join([self._segmented(line) + "\n" for line in self.lines(block)]).encode()
        return protect(find_units(block, self.options), block, self.options.protect)

    def _segmented(self, line: str) -> str:
        words = self.options.protect
        if not words:
            return self.subword.encode(line)
        return " ".join([piece if piece in words else self.subword.encode(piece) for piece in cut_out(line, words)])

    def _text(self, segmented: str) -> str:
        words = self.options.protect
        if not words:
            return self.subword.decode(segmented)
        pieces = [piece if piece in words else self.subword.decode(piece) for piece in cut_out(segmented, words)]
        return " ".join(filter(None, pieces))

    def _joined(self, block: bytes, noised: Noised) -> Noised:
        """The noised block as text: changed lines are joined from subwords, the other lines are the original lines.

        A line keeps its original text if only marks of word boundaries would remain of it.
        """
        lines, new = self.lines(block), self.lines(noised.data.tobytes())
        for number in np.flatnonzero(noised.changed).tolist():
            if text := self._text(new[number]):
                lines[number] = text
            else:
                noised.changed[number] = False
                noised.counts.lines_kept_from_vanishing += 1
                noised.counts.lines_changed -= 1
        data = "".join([line + "\n" for line in lines]).encode()
        return Noised(np.frombuffer(data, np.uint8), noised.changed, noised.counts)

"""Blocks of text: cut into words, characters or subwords, and put together again."""

import numpy as np
import pyarrow as pa

from fairseq_kd.errors import KDError
from fairseq_kd.noise.block import Noised, add_noise
from fairseq_kd.noise.options import NoiseOptions
from fairseq_kd.noise.protect import cut_out, protect
from fairseq_kd.noise.units import Units, find_characters, find_words, find_words_and_characters
from fairseq_kd.noise.unsegmented import unsegmented_text
from fairseq_kd.noise.vocabulary import count_units


def check_subword(options: NoiseOptions, subword) -> None:
    """Raises KDError when a subword model is missing, or would have no effect."""
    if options.level == "subword" and subword is None:
        raise KDError("--level subword on text needs --subword-model, to cut the text into subwords")
    if options.level != "subword" and subword is not None:
        raise KDError(f"--subword-model has no effect with --level {options.level}")


def find_units(block: bytes, options: NoiseOptions) -> Units:
    """The units of a block of text; of subwords, what stands between spaces."""
    if options.level == "char":
        return find_characters(block)
    return find_words_and_characters(block) if options.word_tokenizer == "char" else find_words(block)


class TextLevel:
    """word and char cut the text itself; subword cuts what the subword model makes of it.

    A block is UTF-8 bytes of whole lines, each ended by a newline.
    """

    def __init__(self, options: NoiseOptions, subword=None):
        """subword: a model of `corpus.subword`. Raises KDError when it is missing, or has no effect."""
        check_subword(options, subword)
        self.options, self.subword = options, subword

    def count(self, block: bytes) -> pa.Table:
        """How often each unit of a block occurs, see `count_units`."""
        return count_units(self._units(block))

    def noise(self, block: bytes, **where) -> Noised:
        """The block with noise; where: see `add_noise`."""
        units = self._units(block)
        noised = add_noise(units, self.options, **where)
        if self.options.level == "word" and self.options.word_tokenizer == "spaces":
            noised.counts.lines_unsegmented = unsegmented_text(units)
        return noised if self.subword is None else self._joined(block, noised)

    def lines(self, block: bytes) -> list[str]:
        """The sentences of a block, to be read by people."""
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
        """Changed lines from subwords to text; the others as they were.

        A line of which nothing but marks of word boundaries would be left stays as it was.
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

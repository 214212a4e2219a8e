"""What a level means on text: how a block is cut into units, and how it becomes text again."""

from collections import Counter

import numpy as np

from fairseq_kd.errors import KDError
from fairseq_kd.noise.block import Counts, add_noise
from fairseq_kd.noise.options import NoiseOptions
from fairseq_kd.noise.units import Units, find_characters, find_words
from fairseq_kd.noise.vocabulary import Vocabulary, count_units


class TextLevel:
    """word and char cut the text itself; subword cuts what the subword model makes of it."""

    def __init__(self, level: str, subword=None):
        """subword: a model of `corpus.subword`. Raises KDError when it is missing, or has no effect."""
        if (level == "subword") != (subword is not None):
            raise KDError(f"--level {level} and --subword-model: a model is needed for level subword, and only there")
        self.level, self.subword = level, subword

    def count(self, block: bytes, counts: Counter) -> None:
        """Add the units of a block to `counts`."""
        count_units(self._units(block), counts)

    def noise(
        self, block: bytes, options: NoiseOptions, *, seed: int, side: int, block_number: int, vocabulary: Vocabulary
    ) -> tuple[bytes, np.ndarray, Counts]:
        """(block with noise, bool (lines,) which changed, counts); see `add_noise`."""
        noised = add_noise(self._units(block), options, seed=seed, side=side, block=block_number, vocabulary=vocabulary)
        data = noised.data.tobytes()
        if self.subword is not None:
            data = self._joined(block, data, noised.changed, noised.counts)
        return data, noised.changed, noised.counts

    def _units(self, block: bytes) -> Units:
        if self.level == "char":
            return find_characters(block)
        if self.subword is None:
            return find_words(block)
        lines = block.decode().split("\n")[:-1]
        return find_words(("\n".join(map(self.subword.encode, lines)) + "\n").encode())

    def _joined(self, block: bytes, data: bytes, changed: np.ndarray, counts: Counts) -> bytes:
        """Changed lines from subwords to text; the others as they were.

        A line of which only marks of word boundaries would be left stays as it was.
        """
        lines, noised = block.split(b"\n"), data.decode().split("\n")
        for number in np.flatnonzero(changed).tolist():
            text = self.subword.decode(noised[number])
            if text:
                lines[number] = text.encode()
            else:
                changed[number] = False
                counts.lines_kept_from_vanishing += 1
                counts.lines_changed -= 1
        return b"\n".join(lines)

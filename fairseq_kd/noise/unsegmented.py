"""Lines whose words cannot be told, because they are of a script without spaces and nobody has put spaces in.

A "word" of such a line is a whole sentence: to delete it is impossible, and to replace it makes another sentence of it.
"""

import numpy as np

from fairseq_kd.corpus.scripts import code_points, letter_weights, may_hold_unspaced
from fairseq_kd.errors import KDError
from fairseq_kd.noise.units import Units


class UnsegmentedText(KDError):
    """Too many lines whose words cannot be told. What to do about it depends on the command, which adds it."""


LONGEST = 11  # letters to a word, by their weights; a line with more on average is not segmented
LARGEST_SHARE = 0.1  # of a text: a corpus from the web has a few lines in another script


def unsegmented_text(units: Units) -> int:
    """How many lines of a block of text are not segmented into words."""
    if not may_hold_unspaced(units.data):
        return 0
    weights = letter_weights()[code_points(units.data.tobytes())]
    letters = np.flatnonzero(weights)
    places = np.flatnonzero((units.data & 0xC0) != 0x80)[letters]
    return unsegmented_lines(units, places, weights[letters])


def unsegmented_lines(units: Units, places: np.ndarray, weights: np.ndarray) -> int:
    """How many lines have words that are too long on average, by the letters at these bytes of a block."""
    words = np.searchsorted(units.starts(), places, side="right") - 1
    lengths = np.bincount(words, weights, minlength=len(units))
    letters, with_letters = (np.append(0, np.cumsum(values))[units.lines] for values in (lengths, lengths > 0))
    return int((np.diff(letters) > LONGEST * np.diff(with_letters)).sum())

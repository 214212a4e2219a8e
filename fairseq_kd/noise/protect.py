"""Words that noise must not touch: tags such as <BT> or __en__, each of which stands between spaces."""

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fairseq_kd.corpus.text import SPACES
from fairseq_kd.noise.units import Units, find_words


def protect(units: Units, block: bytes, words: Collection[str]) -> Units:
    """The units of a block of text, with those marked that are within one of `words`.

    block: the text that the units are cut from.
    """
    if not words:
        return units
    found = find_words(block)
    symbols = pa.array([word.encode() for word in words])
    numbers = np.flatnonzero(pc.is_in(found.pieces().take(pa.array(2 * found.free() + 1)), symbols))
    texts = [piece.decode() for piece in found.pieces().take(pa.array(2 * numbers + 1)).to_pylist()]
    return marked(units, found.edges[2 * numbers + 1], found.edges[2 * numbers + 2], texts, words)


def marked(units: Units, starts: np.ndarray, ends: np.ndarray, texts: list[str], words: Collection[str]) -> Units:
    """The units with those marked that begin within one of some spans of bytes, given in order.

    texts: which of `words` each span holds.
    """
    places = units.starts()
    within = np.searchsorted(starts, places, side="right") > np.searchsorted(ends, places, side="right")
    return replace(units, protected=within, protected_words=dict.fromkeys(words, 0) | Counter(texts))


def cut_out(line: str, words: Collection[str]) -> list[str]:
    """The line in pieces, of which each is one of `words` or holds none. Spaces between the pieces are left out."""
    pieces = []
    for word in filter(None, SPACES.split(line)):
        if word in words or not pieces or pieces[-1] in words:
            pieces.append(word)
        else:
            pieces[-1] += f" {word}"
    return pieces

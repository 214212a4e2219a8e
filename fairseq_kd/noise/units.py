"""Where the units of a block are: words or characters of text, words or subwords of token ids."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
import pyarrow as pa
import regex

from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.scripts import code_points, is_unspaced, may_hold_unspaced

NEWLINE = 10
SPACE = 0x20  # bytes up to it are white space and control characters
DELETE = 0x7F  # the control character
# the others that `corpus.text.normalise_spaces` knows
WIDE_SPACES = "\u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u200b"
WIDE_SPACES += "\u2028\u2029\u202f\u205f\u3000\ufeff"
LATER_BYTES = {  # of the wide spaces, by their first byte and how many they have
    key: [int.from_bytes(code[1:], "big") for code in codes]
    for key, codes in groupby(sorted(map(str.encode, WIDE_SPACES)), key=lambda code: (code[0], len(code)))
}
JOINED = regex.compile(
    r"[\p{GCB=Extend}\p{GCB=ZWJ}\p{GCB=SpacingMark}\p{GCB=Prepend}\p{GCB=L}\p{GCB=V}\p{GCB=T}\p{RI}]"
)
MAX_BYTES = 2**30  # of a block: its places are kept in 32 bits
AT_ONCE = 2**18  # bytes searched for places
CLUSTER = regex.compile(r"\X")


@dataclass(frozen=True)
class Units:
    """A block of lines cut into prefix, unit 0, gap 0, unit 1, gap 1, ...: all of its bytes, in order.

    The line ends are in the gaps, and with them the lines without a unit.
    data: uint8 (bytes,). edges: int32 (2 * units + 2,), where each piece begins, and the end.
    lines: number of the first unit of each line, and of all units at the end (lines + 1,).
    groups: the same of groups within which neighbours can change places: lines, or words if units are characters.
    touching: whether some units of a line have a gap between them and others have none.
    protected: bool (units,), those that stay what and where they are; None: no unit.
    protected_words: how often each protected word is in the block.
    """

    data: np.ndarray
    edges: np.ndarray
    lines: np.ndarray
    groups: np.ndarray
    touching: bool = False
    protected: np.ndarray | None = None
    protected_words: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.edges) // 2 - 1

    def pieces(self) -> pa.Array:
        """All pieces as binary values, without a copy."""
        return self.cut(self.edges)

    def cut(self, edges: np.ndarray) -> pa.Array:
        """The bytes between these places as binary values, without a copy."""
        buffers = [None, pa.py_buffer(edges), pa.py_buffer(self.data)]
        return pa.BinaryArray.from_buffers(pa.binary(), len(edges) - 1, buffers)

    def starts(self) -> np.ndarray:
        """Byte place of each unit."""
        return self.edges[1:-1:2]

    def free(self) -> np.ndarray:
        """Numbers of the units that are not protected."""
        return np.arange(len(self)) if self.protected is None else np.flatnonzero(~self.protected)

    def per_line(self, numbers: np.ndarray) -> np.ndarray:
        """How many of these units, given in order, each line has."""
        if len(numbers) == 0:
            return np.zeros(len(self.lines) - 1, dtype=np.int64)
        return np.diff(np.searchsorted(numbers, self.lines))


def find_words(block: bytes) -> Units:
    """The words of UTF-8 text whose last line is ended: what stands between white space or control characters."""
    data = np.frombuffer(block, np.uint8)
    gap = _gaps(block, data)
    head = [0] if gap[0] else [0, 0]  # an empty prefix before a block that begins with a word
    changes = _places(len(data) - 1, lambda part: gap[1:][part] != gap[:-1][part])
    changes += 1
    edges = np.concatenate([head, changes, [len(data)]], dtype=np.int32, casting="unsafe")
    return _with_lines(data, edges, _places(len(data), lambda part: data[part] == NEWLINE))


def find_characters(block: bytes) -> Units:
    """The extended grapheme clusters of UTF-8 text (UAX 29) but white space and control characters."""
    data = np.frombuffer(block, np.uint8)
    gap = _gaps(block, data)
    first = ~gap
    if not block.isascii():
        first &= (data & 0xC0) != 0x80  # not the later bytes of a character
        first[_inside_clusters(block.decode(), data)] = False
    units = _beginning_at(first, gap, data)
    starts, ends = units.starts(), units.edges[2:-1:2]
    words = np.flatnonzero(np.append(True, starts[1:] > ends[:-1])[: len(starts)])
    return replace(units, groups=np.append(words, len(starts)))


def find_words_and_characters(block: bytes) -> Units:
    """As `find_words`, but each grapheme cluster of a script without spaces between words is a word by itself."""
    data = np.frombuffer(block, np.uint8)
    if not may_hold_unspaced(data):
        return find_words(block)
    gap, character = _gaps(block, data), np.flatnonzero((data & 0xC0) != 0x80)
    alone = is_unspaced()[code_points(block)]
    begins = alone | np.append(True, (alone | gap[character])[:-1])
    begins &= ~gap[character]
    first = np.zeros(len(data), dtype=bool)
    first[character[begins]] = True
    first[_inside_clusters(block.decode(), data)] = False
    return _beginning_at(first, gap, data)


def _beginning_at(first: np.ndarray, gap: np.ndarray, data: np.ndarray) -> Units:
    """first, gap: bool (bytes,), where a unit begins, and what is white space."""
    starts = np.flatnonzero(first)
    # a unit ends where the next begins, or where white space begins
    behind_gap = np.flatnonzero(gap[1:] & ~gap[:-1]) + 1
    ends = np.minimum(np.append(starts[1:], len(data)), _next(behind_gap, starts, len(data)))
    units = _with_lines(data, _interleave(starts, ends, len(data)), np.flatnonzero(data == NEWLINE))
    return replace(units, touching=True)


def find_tokens(ids: np.ndarray, begins: np.ndarray, eos: int) -> Units:
    """Groups of token ids; every sentence ends with `eos`.

    begins: bool (tokens,), where a group begins. The first token of a sentence begins one in any case.
    """
    is_end = ids == eos
    first = (begins | np.concatenate([[True], is_end[:-1]])) & ~is_end
    starts, ends_of_lines = np.flatnonzero(first), np.flatnonzero(is_end)
    ends = np.minimum(np.append(starts[1:], len(ids)), _next(ends_of_lines, starts, len(ids)))
    size = ids.dtype.itemsize
    edges = _interleave(starts, ends, len(ids)) * size
    return _with_lines(ids.view(np.uint8), edges, ends_of_lines * size)


def _gaps(block: bytes, data: np.ndarray) -> np.ndarray:
    """bool (bytes,): which belong to white space or control characters."""
    gap = data <= SPACE
    if DELETE in block:
        gap |= data == DELETE
    if block.isascii():
        return gap
    for (lead, length), later_bytes in LATER_BYTES.items():
        if lead not in block:
            continue
        places = np.flatnonzero(data == lead)  # no character is cut, and the block ends with a newline
        codes = data[places + 1].astype(np.int32)
        if length == 3:
            codes = codes << 8 | data[places + 2]
        found = places[np.isin(codes, later_bytes)]
        for offset in range(length):
            gap[found + offset] = True
    return gap


def _places(length: int, flags: Callable[[slice], np.ndarray]) -> np.ndarray:
    """int32: which of `length` flags are true.

    flags: gives those of a part. Parts stay in the cache, as an array of all places in 64 bits would not.
    """
    parts = []
    for begin in range(0, length, AT_ONCE):
        found = np.flatnonzero(flags(slice(begin, begin + AT_ONCE))).astype(np.int32)
        found += begin
        parts.append(found)
    return np.concatenate([np.zeros(0, np.int32), *parts])


def _inside_clusters(text: str, data: np.ndarray) -> list[int]:
    """Byte places of the characters that join the one before them."""
    if not JOINED.search(text):
        return []
    inside = [place for match in CLUSTER.finditer(text) for place in range(match.start() + 1, match.end())]
    return np.flatnonzero((data & 0xC0) != 0x80)[inside]


def _next(places: np.ndarray, starts: np.ndarray, end: int) -> np.ndarray:
    """For each start the first of `places` behind it, or `end`."""
    return np.append(places, end)[np.searchsorted(places, starts, side="right")]


def _interleave(starts: np.ndarray, ends: np.ndarray, end: int) -> np.ndarray:
    edges = np.empty(2 * len(starts) + 2, dtype=np.int64)
    edges[0], edges[-1] = 0, end
    edges[1:-1:2], edges[2:-1:2] = starts, ends
    return edges


def _with_lines(data: np.ndarray, edges: np.ndarray, line_ends: np.ndarray) -> Units:
    """line_ends: byte place of the end of each line."""
    if len(data) > MAX_BYTES:
        raise KDError(
            f"{len(line_ends):,} neighbouring lines have {len(data):,} bytes: this is no text of sentences; check the "
            "line ends of the file"
        )
    edges = edges.astype(np.int32, copy=False)
    lines = np.append(0, np.searchsorted(edges[1:-1:2], line_ends.astype(np.int32, copy=False)))
    return Units(data, edges, lines, groups=lines)

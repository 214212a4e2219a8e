"""The units of a block and their positions: words or characters of text, words or subwords of token ids."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex

from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.scripts import code_points, is_unspaced, may_hold_unspaced

NEWLINE = 10
SPACE = 0x20  # bytes up to it are white space and control characters
DELETE = 0x7F  # the control character
# the other white space that `corpus.text.normalise_spaces` knows
WIDE_SPACES = "\u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u200b"
WIDE_SPACES += "\u2028\u2029\u202f\u205f\u3000\ufeff"
LATER_BYTES = {  # (first byte, number of bytes) of wide spaces -> the remaining bytes of each, as a number
    key: [int.from_bytes(code[1:], "big") for code in codes]
    for key, codes in groupby(sorted(map(str.encode, WIDE_SPACES)), key=lambda code: (code[0], len(code)))
}
JOINED = regex.compile(
    r"[\p{GCB=Extend}\p{GCB=ZWJ}\p{GCB=SpacingMark}\p{GCB=Prepend}\p{GCB=L}\p{GCB=V}\p{GCB=T}\p{RI}]"
)
MAX_BYTES = 2**30  # largest block: positions in it are stored in 32 bits
AT_ONCE = 2**18  # bytes searched per step
CLUSTER = regex.compile(r"\X")


@dataclass(frozen=True)
class Units:
    """A block of lines cut into prefix, unit 0, gap 0, unit 1, gap 1, ...: all of its bytes, in order.

    The gaps hold the line ends, and therefore also the lines without a unit.
    data: uint8 (bytes,). edges: int32 (2 * units + 2,), the byte where each piece begins, then the end of the block.
    lines: (lines + 1,), number of the first unit of each line, then the number of units.
    groups: as `lines`, for the groups in which units can change places: lines, or words if the units are characters.
    touching: whether within lines some gaps between units are empty and others are not.
    protected: bool (units,), units that neither change nor move; None: there is none.
    protected_words: how often each protected word occurs in the block.
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
        """The bytes between neighbouring edges as binary values, without a copy."""
        buffers = [None, pa.py_buffer(edges), pa.py_buffer(self.data)]
        return pa.BinaryArray.from_buffers(pa.binary(), len(edges) - 1, buffers)

    def starts(self) -> np.ndarray:
        """The byte where each unit begins, (units,)."""
        return self.edges[1:-1:2]

    def free(self) -> np.ndarray:
        """Numbers of the units that are not protected."""
        return np.arange(len(self)) if self.protected is None else np.flatnonzero(~self.protected)

    def per_line(self, numbers: np.ndarray) -> np.ndarray:
        """How many of the given units each line has, (lines,). numbers: of the units, ascending."""
        if len(numbers) == 0:
            return np.zeros(len(self.lines) - 1, dtype=np.int64)
        return np.diff(np.searchsorted(numbers, self.lines))


def count_units(units: Units) -> pa.Table:
    """How often each unprotected unit of a block occurs: columns unit (binary) and count (int64)."""
    found = pc.value_counts(units.pieces().take(pa.array(2 * units.free() + 1)))
    return pa.table({"unit": found.field("values"), "count": found.field("counts")})


def find_words(block: bytes) -> Units:
    """The words of UTF-8 text, separated by white space or control characters. The block ends with a newline."""
    data = np.frombuffer(block, np.uint8)
    gap = _gaps(block, data)
    head = [0] if gap[0] else [0, 0]  # an empty prefix before a block that begins with a word
    changes = _places(len(data) - 1, lambda part: gap[1:][part] != gap[:-1][part])
    changes += 1
    edges = np.concatenate([head, changes, [len(data)]], dtype=np.int32, casting="unsafe")
    return _with_lines(data, edges, _places(len(data), lambda part: data[part] == NEWLINE))


def find_characters(block: bytes) -> Units:
    """The extended grapheme clusters of UTF-8 text (UAX 29), without white space and control characters."""
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
    """As `find_words`, but each grapheme cluster of a script without spaces between words is a separate word."""
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
    """The units that begin at the bytes `first`. first, gap: bool (bytes,); gap: the bytes that are white space."""
    starts = np.flatnonzero(first)
    # a unit ends where the next unit begins, or where white space begins
    behind_gap = np.flatnonzero(gap[1:] & ~gap[:-1]) + 1
    ends = np.minimum(np.append(starts[1:], len(data)), _next(behind_gap, starts, len(data)))
    units = _with_lines(data, _interleave(starts, ends, len(data)), np.flatnonzero(data == NEWLINE))
    return replace(units, touching=True)


def find_tokens(ids: np.ndarray, begins: np.ndarray, eos: int) -> Units:
    """Words or subwords of token ids; every sentence ends with `eos`.

    begins: bool (tokens,), the tokens with which a unit begins. The first token of a sentence always begins one.
    """
    is_end = ids == eos
    first = (begins | np.concatenate([[True], is_end[:-1]])) & ~is_end
    starts, ends_of_lines = np.flatnonzero(first), np.flatnonzero(is_end)
    ends = np.minimum(np.append(starts[1:], len(ids)), _next(ends_of_lines, starts, len(ids)))
    size = ids.dtype.itemsize
    edges = _interleave(starts, ends, len(ids)) * size
    return _with_lines(ids.view(np.uint8), edges, ends_of_lines * size)


def _gaps(block: bytes, data: np.ndarray) -> np.ndarray:
    """bool (bytes,): which bytes belong to white space or control characters."""
    gap = data <= SPACE
    if DELETE in block:
        gap |= data == DELETE
    if block.isascii():
        return gap
    for (lead, length), later_bytes in LATER_BYTES.items():
        if lead not in block:
            continue
        places = np.flatnonzero(data == lead)  # the block holds whole characters and ends with a newline
        codes = data[places + 1].astype(np.int32)
        if length == 3:
            codes = codes << 8 | data[places + 2]
        found = places[np.isin(codes, later_bytes)]
        for offset in range(length):
            gap[found + offset] = True
    return gap


def _places(length: int, flags: Callable[[slice], np.ndarray]) -> np.ndarray:
    """int32: the positions of the true flags among `length` flags.

    flags: returns the flags of a slice. A slice fits in the CPU's cache; one 64-bit array of all positions would not.
    """
    parts = []
    for begin in range(0, length, AT_ONCE):
        found = np.flatnonzero(flags(slice(begin, begin + AT_ONCE))).astype(np.int32)
        found += begin
        parts.append(found)
    return np.concatenate([np.zeros(0, np.int32), *parts])


def _inside_clusters(text: str, data: np.ndarray) -> list[int]:
    """The first bytes of the characters that belong to the same grapheme cluster as the character before them."""
    if not JOINED.search(text):
        return []
    inside = [place for match in CLUSTER.finditer(text) for place in range(match.start() + 1, match.end())]
    return np.flatnonzero((data & 0xC0) != 0x80)[inside]


def _next(places: np.ndarray, starts: np.ndarray, end: int) -> np.ndarray:
    """For each start, the first of `places` behind it, or `end` where there is none."""
    return np.append(places, end)[np.searchsorted(places, starts, side="right")]


def _interleave(starts: np.ndarray, ends: np.ndarray, end: int) -> np.ndarray:
    edges = np.empty(2 * len(starts) + 2, dtype=np.int64)
    edges[0], edges[-1] = 0, end
    edges[1:-1:2], edges[2:-1:2] = starts, ends
    return edges


def _with_lines(data: np.ndarray, edges: np.ndarray, line_ends: np.ndarray) -> Units:
    """The units and their lines. line_ends: the byte that ends each line.

    Raises KDError for a block that is larger than MAX_BYTES.
    """
    if len(data) > MAX_BYTES:
        raise KDError(
            f"{len(line_ends):,} consecutive lines have {len(data):,} bytes, far more than sentences have: check the "
            "line ends of the file"
        )
    edges = edges.astype(np.int32, copy=False)
    lines = np.append(0, np.searchsorted(edges[1:-1:2], line_ends.astype(np.int32, copy=False)))
    return Units(data, edges, lines, groups=lines)

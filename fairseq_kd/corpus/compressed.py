"""Files that may be compressed, told by their first bytes whatever their names are."""

import bz2
import contextlib
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from fairseq_kd.errors import KDError

ENDINGS = (".gz", ".xz", ".bz2", ".zst")
READ_AT_ONCE = 2**20  # bytes


@contextlib.contextmanager
def open_sound(path) -> Iterator[BinaryIO]:
    """The content of a file as bytes. Raises KDError, when it is reached, for damage to a compressed file."""
    kind, opened = _opener(path)
    with opened(path) as file:
        try:
            yield file
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            if kind is None:
                raise
            raise KDError(f"{path} is a damaged {kind} file ({error}); fetch it again") from error


def _opener(path):
    """(name of the compression or None, function that opens the file)."""
    with open(path, "rb") as file:
        head = file.read(10)
    if head.startswith(b"\x1f\x8b"):
        return "gzip", gzip.open
    if head.startswith(b"\xfd7zXZ\0"):
        return "xz", lzma.open
    if head.startswith(b"BZh") and head[4:] in (b"1AY&SY", b"\x17rE8P\x90"):  # a first block, or the end of no block
        return "bzip2", bz2.open
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return "zstd", _open_zstd
    return None, lambda path: open(path, "rb", buffering=READ_AT_ONCE)


def _open_zstd(path) -> io.BufferedReader:
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"), READ_AT_ONCE)

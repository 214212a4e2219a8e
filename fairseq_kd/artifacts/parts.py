"""Part files with a hash of their content at the end, so that a damaged part never becomes part of a result.

A part ends with a mark and the sha256 (32 bytes) of everything before it. Parts of versions before the mark have
neither; their readers check only the size or the number of lines.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from fairseq_kd.core.errors import KDError

MARK = b"\nfairseq_kd sha256 "
TRAILER = len(MARK) + hashlib.sha256().digest_size
REMEDY = "remove it, and run the same command again"


def with_hash(buffers: Iterable) -> Iterator:
    """Pass bytes-like objects on, and then their hash."""
    digest = hashlib.sha256()
    for buffer in buffers:
        digest.update(buffer)
        yield buffer
    yield MARK + digest.digest()


def content_size(path) -> int:
    """Bytes of a part without its hash."""
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - TRAILER))
        return size - TRAILER if file.read(TRAILER).startswith(MARK) else size


def check_part(path) -> None:
    """Raises KDError when the content of a part is not the content that was written."""
    if not Path(path).is_file():
        raise KDError(f"{path} is gone or is no file: {REMEDY}")
    size, digest = content_size(path), hashlib.sha256()
    with open(path, "rb") as file:
        left = size
        while left and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
        trailer = file.read()
    if trailer and trailer[len(MARK) :] != digest.digest():
        raise KDError(f"{path} was damaged after it was written (its sha256 is another): {REMEDY}")


def read_part(path) -> bytes:
    """The content of a part. Raises KDError as `check_part` does."""
    check_part(path)
    with open(path, "rb") as file:
        return file.read(content_size(path))

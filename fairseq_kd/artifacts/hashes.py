"""sha256 of files. A file is hashed once per process while it stays the same, however many checks ask for its hash."""

import hashlib
import os
import time

SECONDS_UNTIL_KEPT = 2  # file systems record times in steps: a file that changed just now can change again unseen
_known: dict[tuple[int, int, int, int], str] = {}


def sha256_file(path) -> str:
    """Hex sha256 of a file's bytes. Raises OSError when the file cannot be read.

    The hash is kept by device, inode, size and time of change, so a replaced or changed file is hashed again. The hash
    of a file that was changed in the last seconds is not kept.
    """
    before = _stamp(path)
    if before in _known:
        return _known[before]
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    is_settled = time.time_ns() - before[-1] > SECONDS_UNTIL_KEPT * 1e9
    if is_settled and _stamp(path) == before:
        _known[before] = digest.hexdigest()
    return digest.hexdigest()


def _stamp(path) -> tuple[int, int, int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

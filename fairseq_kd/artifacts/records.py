"""Files that hold the hash of their own content: records (JSON) and parts (binary blocks of unfinished work).

A changed digit in a score or in a name is still good JSON, and a flipped bit in a block is still a number. Readers
compare the content with the hash, so that a damaged file never becomes part of a result.

A record is one JSON object. It holds the sha256 of everything else in it under "seal". A part ends with a mark and the
sha256 (32 bytes) of everything before it. Files of versions before the seal and the mark have neither, and are read:
of such a part, readers check only the size or the number of lines.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from fairseq_kd.artifacts.writing import create_json, write_json
from fairseq_kd.core.errors import KDError

SEAL = "seal"
MARK = b"\nfairseq_kd sha256 "
TRAILER = len(MARK) + hashlib.sha256().digest_size
REMEDY = "remove it, and run the same command again"


class DamagedRecord(KDError):
    """A JSON file whose content is not the content that was written. `reason` describes the damage."""

    def __init__(self, path, reason, remedy: str):
        super().__init__(f"{path} is damaged ({reason}): {remedy}")
        self.reason = reason


def write_record(path, value: dict) -> None:
    """Write an object with its seal as the JSON file `path`, as `writing.write_json` does."""
    write_json(path, sealed(value))


def create_record(path, value: dict) -> None:
    """Write an object with its seal unless the file exists, as `writing.create_json` does."""
    create_json(path, sealed(value))


def sealed(value: dict) -> dict:
    """The object with its seal, to be written as JSON."""
    content = {name: item for name, item in value.items() if name != SEAL}
    return content | {SEAL: _hash(content)}


def read_record(path, remedy: str, required: tuple[str, ...] = ()) -> dict | None:
    """The object in a JSON file without its seal, None where nothing exists.

    required: keys that it must have. remedy: the instruction for the user in the message about a damaged file.
    Raises DamagedRecord when the file is cut off or changed, or is not a file.
    """
    path = Path(path)
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"it is not an object but a {type(found).__name__}")
        if missing := [name for name in required if name not in found]:
            raise ValueError(f"it has no {missing[0]!r}")
        seal = found.pop(SEAL, None)
        if seal is not None and seal != _hash(found):
            raise ValueError("its content does not fit its seal: it was changed after it was written")
    except (OSError, ValueError, RecursionError) as error:  # errors of json and of UTF-8 are ValueErrors
        raise DamagedRecord(path, getattr(error, "strerror", None) or error, remedy) from error
    return found


def _hash(content: dict) -> str:
    """sha256 of the content as it is after writing and reading, when all keys are text."""
    again = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(again, sort_keys=True).encode()).hexdigest()


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
        raise KDError(f"{path} does not exist or is not a file: {REMEDY}")
    size, digest = content_size(path), hashlib.sha256()
    with open(path, "rb") as file:
        remaining = size
        while remaining and (block := file.read(min(remaining, 1 << 20))):
            digest.update(block)
            remaining -= len(block)
        trailer = file.read()
    if trailer and trailer[len(MARK) :] != digest.digest():
        raise KDError(f"{path} was damaged after it was written (its sha256 differs): {REMEDY}")


def read_part(path) -> bytes:
    """The content of a part. Raises KDError as `check_part` does."""
    check_part(path)
    with open(path, "rb") as file:
        return file.read(content_size(path))

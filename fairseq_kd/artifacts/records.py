"""JSON files that are read again: one object each, with a hash of its own content.

A changed digit in a score or in a name is still good JSON. So an object that is written by `sealed` holds the sha256 of
everything else in it under "seal", and reading compares. Files of versions before the seal have none and are read.
"""

import hashlib
import json
from pathlib import Path

from fairseq_kd.core.errors import KDError

SEAL = "seal"


class DamagedRecord(KDError):
    """A JSON file that is not what was written. `reason` says what is wrong with it."""

    def __init__(self, path, reason, remedy: str):
        super().__init__(f"{path} is damaged ({reason}): {remedy}")
        self.reason = reason


def sealed(value: dict) -> dict:
    """The object with its seal, to be written as JSON."""
    content = {name: item for name, item in value.items() if name != SEAL}
    return content | {SEAL: _hash(content)}


def read_record(path, remedy: str, required: tuple[str, ...] = ()) -> dict | None:
    """The object in a JSON file without its seal, None where nothing exists.

    required: keys that it must have. remedy: what to do about a damaged file, for the message.
    Raises DamagedRecord when the file is cut off, changed, or no file.
    """
    path = Path(path)
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"it holds no object but a {type(found).__name__}")
        if missing := [name for name in required if name not in found]:
            raise ValueError(f"it has no {missing[0]!r}")
        seal = found.pop(SEAL, None)
        if seal is not None and seal != _hash(found):
            raise ValueError("its content is not what its seal says: it was changed after it was written")
    except (OSError, ValueError, RecursionError) as error:  # errors of json and of UTF-8 are ValueErrors
        raise DamagedRecord(path, getattr(error, "strerror", None) or error, remedy) from error
    return found


def _hash(content: dict) -> str:
    """sha256 of the content as it is after it was written and read: keys are text then."""
    again = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(again, sort_keys=True).encode()).hexdigest()

"""What long work is being made from: recorded before the first block, compared at every later start."""

from pathlib import Path

from fairseq_kd.corpus.manifest import MANIFEST_NAME, ensure_writable_folder, read_manifest, write_json
from fairseq_kd.errors import KDError

PARTS = "parts"  # holds the record and the finished blocks until all is complete
PLACES = ("teacher.path", "data_bin")  # may change between two runs: contents are compared by hash
WHERE_IT_RAN = ("device", "versions.")  # must be the same within one piece of work, no reason to refuse a complete one
NAMES = {
    "k": "--top-k",
    "tail_shapes": "--tail-shapes",
    "types": "a vocabulary of",
    "teacher.sha256": "a teacher with sha256",
}


def begin(folder: Path, request: dict) -> dict:
    """Record the request in `folder`, or compare it with that of an earlier run; return the one that holds.

    Raises KDError when `folder` cannot be written, holds something else, or was begun from something else.
    """
    if (complete := read_manifest(folder)) is not None:
        _check_same(folder, complete, request, ignore=PLACES + WHERE_IT_RAN)
        return complete
    ensure_writable_folder(folder)
    if (begun := read_manifest(folder / PARTS)) is not None:
        _check_same(folder, begun, request, ignore=PLACES)
        return begun
    ours = {PARTS} if not _visible(folder / PARTS) else set()  # begun by another process in this moment
    others = [name for name in _visible(folder) if name not in ours]
    if others:
        if read_manifest(folder) is not None:  # another process has finished since the first look
            return begin(folder, request)
        raise KDError(
            f"{folder} already holds {others[0]!r}{' and more' if others[1:] else ''} and is no {_kind(request)}: "
            "choose another --out"
        )
    write_json(folder / PARTS / MANIFEST_NAME, request)
    return request


def _kind(request: dict) -> str:
    return request["kind"].removeprefix("fairseq_kd ")


def _visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []


def _check_same(folder: Path, begun: dict, request: dict, ignore: tuple[str, ...]) -> None:
    if not isinstance(begun, dict) or begun.get("kind") != request["kind"]:
        raise KDError(f"{folder / MANIFEST_NAME} is not that of a {_kind(request)}: choose another --out")
    found, wanted = flatten(begun), flatten(request)
    names = [name for name in wanted if not name.startswith(ignore) and found.get(name) != wanted[name]]
    names += [name for name in found if name.startswith("data.") and name not in wanted]
    if names:
        name = names[0]
        raise KDError(
            f"{folder} was made with {NAMES.get(name, name)} {_short(found.get(name))}, this command has "
            f"{_short(wanted.get(name))}{f' ({len(names) - 1} more differ)' if names[1:] else ''}: one "
            f"{_kind(request)} is made from one request. Give what was given before, choose another --out, or remove "
            "the folder"
        )


def flatten(value: dict, prefix: str = "") -> dict:
    """{"teacher": {"path": p}} -> {"teacher.path": p}."""
    flat = {}
    for key, item in value.items():
        flat |= flatten(item, f"{prefix}{key}.") if isinstance(item, dict) else {prefix + key: item}
    return flat


def _short(value) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else text[:16] + "..."

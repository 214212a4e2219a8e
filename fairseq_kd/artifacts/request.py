"""What long work is being made from: recorded before the first block, compared at every later start."""

from pathlib import Path

from fairseq_kd.artifacts.manifest import MANIFEST_NAME, create_json, ensure_writable_folder, read_manifest
from fairseq_kd.artifacts.records import sealed
from fairseq_kd.core.errors import KDError

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

    Of processes that begin together the first to record decides, and the others compare theirs with it.
    Raises KDError when `folder` cannot be written, holds something else, or was begun from something else.
    """
    if (recorded := _recorded(folder, request)) is not None:
        return recorded
    ensure_writable_folder(folder)
    others = [name for name in _visible(folder) if name != PARTS or _visible(folder / PARTS)]
    if others:
        if (recorded := _recorded(folder, request)) is not None:  # begun by another process since the first look
            return recorded
        raise KDError(
            f"{folder} already holds {others[0]!r}{' and more' if others[1:] else ''} and is no {_kind(request)}: "
            "choose another --out"
        )
    create_json(folder / PARTS / MANIFEST_NAME, sealed(request))
    if (recorded := _recorded(folder, request)) is None:
        raise KDError(f"{folder} was removed while it was being begun: run the same command again")
    return recorded


def _recorded(folder: Path, request: dict) -> dict | None:
    """What `folder` is made from: of the complete work, or of what was begun. Raises KDError unless `request` is."""
    for place, ignore in (
        (folder, PLACES + WHERE_IT_RAN),
        (folder / PARTS, PLACES),
        (folder, PLACES + WHERE_IT_RAN),  # it may be completed, and the parts removed, between two looks
    ):
        if (found := read_manifest(place)) is not None:
            _check_same(folder, found, request, ignore)
            return found
    return None


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

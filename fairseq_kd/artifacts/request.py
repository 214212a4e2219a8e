"""The request of long work: recorded before the first block, compared at every later start."""

from pathlib import Path

from fairseq_kd.artifacts.manifest import MANIFEST_NAME, read_manifest
from fairseq_kd.artifacts.records import create_record
from fairseq_kd.artifacts.writing import ensure_writable_folder
from fairseq_kd.core.errors import KDError

PARTS = "parts"  # holds the record and the finished blocks until the work is complete
# may change between two runs: contents are compared by hash
PLACES = ("teacher.path", "data_bin", "selection.model.path", "round_trip.model.path")
WHERE_IT_RAN = ("device", "versions.")  # must be the same within one piece of work, not for a complete one to be kept
NAMES = {
    "k": "--top-k",
    "tail_shapes": "--tail-shapes",
    "types": "a vocabulary of",
    "teacher.sha256": "a teacher with sha256",
    "teacher.weights.kind": "--teacher-weights",
    "teacher.weights.numbers": "--teacher-weights",
    "teacher.weights.temperature": "--teacher-weight-temperature",
    "teacher.weights.per": "--teacher-weights-per",
}
SHOWN = 32  # characters of a long value in a message


def begin(folder: Path, request: dict) -> dict:
    """Record the request in `folder`, or compare it with the request of an earlier run; return the recorded one.

    When several processes begin together, the first to record decides, and the others compare their requests with it.
    Raises KDError when `folder` cannot be written, holds another artefact, or was begun from another request.
    """
    if (recorded := check_free(folder, request)) is not None:
        return recorded
    create_record(folder / PARTS / MANIFEST_NAME, request)
    if (recorded := _recorded(folder, request)) is None:
        raise KDError(f"{folder} was removed while the work in it began: run the same command again")
    return recorded


def check_free(folder: Path, request: dict) -> dict | None:
    """The recorded request of `folder`; None where the folder is free for the work, which is then made.

    request: as much of it as is known. Raises KDError as `begin` does.
    """
    if (recorded := _recorded(folder, request)) is not None:
        return recorded
    ensure_writable_folder(folder)
    others = [name for name in _visible(folder) if name != PARTS or _visible(folder / PARTS)]
    if not others:
        return None
    if (recorded := _recorded(folder, request)) is not None:  # begun by another process since the first look
        return recorded
    raise KDError(
        f"{folder} already holds {others[0]!r}{' and more' if others[1:] else ''} and is not {a_kind(request)}: "
        "choose another --out"
    )


def _recorded(folder: Path, request: dict) -> dict | None:
    """The recorded request of the complete work, or of the begun one. Raises KDError when `request` differs from it."""
    for place, ignore in (
        (folder, PLACES + WHERE_IT_RAN),
        (folder / PARTS, PLACES),
        (folder, PLACES + WHERE_IT_RAN),  # it may be completed, and the parts removed, between two looks
    ):
        if (found := read_manifest(place)) is not None:
            check_same(folder, found, request, ignore)
            return found
    return None


def _kind(request: dict) -> str:
    return request["kind"].removeprefix("fairseq_kd ")


def a_kind(request: dict) -> str:
    """The kind of the artefact that a request makes, with its article: "an exported model"."""
    kind = _kind(request)
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []


def check_same(where, found: dict, wanted: dict, ignore: tuple[str, ...] = ()) -> None:
    """Compare the recorded request of `where` with a new request, nested keys included.

    found: the recorded request, or a manifest that holds it and more. ignore: starts of keys that may differ.
    In the mappings of the request, the record may have no further key: a filter that was given before, for example.
    Raises KDError that names the first key that differs, with the old and the new value.
    """
    if "kind" in wanted and found.get("kind") != wanted["kind"]:
        raise KDError(f"{where} is not {a_kind(wanted)}: choose another --out")
    if (difference := describe_difference(found, wanted, ignore)) is not None:
        what = _kind(wanted) if "kind" in wanted else "result"
        raise KDError(
            f"{where} was made with {difference}: one {what} is made from one request. Give the same options and "
            "inputs as before, choose another --out, or remove the old one"
        )


def describe_difference(found: dict, wanted: dict, ignore: tuple[str, ...] = ()) -> str | None:
    """ "KEY OLD, this command has NEW (2 more differ)", None where nothing differs. Arguments: see `check_same`."""
    old, new = flatten(found), flatten(wanted)
    inside = tuple(f"{name}." for name, value in wanted.items() if isinstance(value, dict))
    names = [name for name in new if not name.startswith(ignore) and old.get(name) != new[name]]
    names += [name for name in old if name.startswith(inside) and name not in new and not name.startswith(ignore)]
    if not names:
        return None
    before, now = _shown(old.get(names[0]), new.get(names[0]))
    more = f" ({len(names) - 1} more differ)" if names[1:] else ""
    return f"{NAMES.get(names[0], names[0])} {before}, this command has {now}{more}"


def flatten(value: dict, prefix: str = "") -> dict:
    """{"teacher": {"path": p}} -> {"teacher.path": p}."""
    flat = {}
    for key, item in value.items():
        flat |= flatten(item, f"{prefix}{key}.") if isinstance(item, dict) else {prefix + key: item}
    return flat


def _shown(before, now) -> tuple[str, str]:
    """Both as text. A long text is cut to the part around the first character that differs."""
    texts = ["nothing" if value is None else str(value) for value in (before, now)]
    shorter = min(map(len, texts))
    first = next((at for at in range(shorter) if texts[0][at] != texts[1][at]), shorter)
    start = 0 if first < SHOWN // 2 else first - SHOWN // 2
    return tuple(_cut(text, start) for text in texts)


def _cut(text: str, start: int) -> str:
    if len(text) <= SHOWN:
        return text
    part = text[start : start + SHOWN]
    return f"{'...' if start else ''}{part}{'...' if len(text) > start + SHOWN else ''}"

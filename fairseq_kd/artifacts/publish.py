"""Several files OUT.* that appear together: written into a folder beside them, then moved, the manifest last."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from fairseq_kd.artifacts.manifest import (
    MANIFEST_NAME,
    check_files,
    ensure_writable_folder,
    exclusive,
    hash_files,
    read_manifest,
    write_json,
)
from fairseq_kd.artifacts.records import sealed
from fairseq_kd.core.errors import KDError


def finished(out: Path, request: dict) -> dict | None:
    """The manifest of OUT.* if it is complete and of this request, else None.

    A run that was killed while it moved its files is finished first. Raises KDError when OUT is of another request or
    was changed, and when its folder is not writable.
    """
    ensure_writable_folder(out.parent)
    with exclusive(out):
        _move(out, request)
    manifest = read_manifest(out.parent, f"{out.name}.{MANIFEST_NAME}")
    if manifest is None:
        return None
    if any(manifest.get(name) != value for name, value in request.items()):
        raise KDError(
            f"{out}.{MANIFEST_NAME} was made from other input or other options; choose another --out or remove {out}.*"
        )
    check_files(out.parent, manifest["files"])
    return manifest


@contextlib.contextmanager
def files_in_progress(out: Path, request: dict, names: list[str]) -> Iterator[tuple[Path, dict]]:
    """Yield a folder to write the files `names` into, and the manifest to complete.

    Raises KDError when one of the files is there already, or cannot be written.
    """
    with exclusive(out):
        for name in names:
            if (out.parent / name).exists():
                raise KDError(f"{out.parent / name} exists and was not made by this command; choose another --out")
        folder, manifest = _folder(out), dict(request)
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        folder.mkdir()
        try:
            yield folder, manifest
            manifest["files"] = hash_files(folder)
            write_json(folder / MANIFEST_NAME, sealed(manifest))
        except OSError as error:
            shutil.rmtree(folder)
            raise KDError(f"cannot write to {out.parent} ({error.strerror or error}); choose another --out") from error
        except BaseException:
            shutil.rmtree(folder)
            raise
        _move(out, request)


def _folder(out: Path) -> Path:
    return out.parent / f".{out.name}.part"


def _move(out: Path, request: dict) -> None:
    """Give the files their names, if they are complete."""
    folder = _folder(out)
    manifest = read_manifest(folder)
    if manifest is None or any(manifest.get(name) != value for name, value in request.items()):
        return
    for name in manifest["files"]:
        if (folder / name).exists():
            os.replace(folder / name, out.parent / name)
    os.replace(folder / MANIFEST_NAME, out.parent / f"{out.name}.{MANIFEST_NAME}")
    folder.rmdir()

"""Artefacts of several files that appear complete or not at all: a folder, or files OUT.* in one folder.

Both are written into a temporary folder next to their place, and moved when the block ends without an exception. So a
process that is killed at any moment leaves only a temporary folder, which the next run removes. Before anything gets
its name, the inputs are compared with what was read (`Inputs.check`), and the files with the manifest.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.locks import exclusive, lock_file
from fairseq_kd.artifacts.manifest import MANIFEST_NAME, check_files, hash_files, read_manifest
from fairseq_kd.artifacts.records import write_record
from fairseq_kd.artifacts.request import a_kind, check_same
from fairseq_kd.artifacts.writing import ensure_writable_folder, naming_file, remove_leftover_files
from fairseq_kd.core.errors import KDError


def finished(out, request: dict, lock: bool = True) -> dict | None:
    """The manifest of the folder `out` if it is complete and was made from this request, None where nothing exists.

    lock: False where the caller holds the lock of `out` (`exclusive`).
    Raises KDError when `out` holds another artefact, was made from another request (the key, the old and the new value
    are named), or was changed.
    """
    out = Path(out)
    remove_leftovers(out, lock)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if (manifest := read_manifest(out)) is None:
        raise KDError(f"{out} exists and is not {a_kind(request)}; choose another --out")
    check_same(out, manifest, request)
    check_files(out, manifest["files"])
    return manifest


@contextlib.contextmanager
def folder_in_progress(final, inputs: Inputs | None = None, lock: bool = True) -> Iterator[Path]:
    """Yield a temporary folder next to `final`; it is renamed to `final` when the block ends without an exception.

    inputs: compared before. lock: False where the caller holds the lock of `final` (`exclusive`).
    Raises KDError when the parent is not writable, when another process has made `final` since the caller looked, when
    an input has changed, and when files that the manifest in the folder lists are missing.
    """
    final = Path(final).absolute()
    ensure_writable_folder(final.parent)
    with exclusive(final) if lock else contextlib.nullcontext():
        if final.exists() and not (final.is_dir() and not any(final.iterdir())):
            raise KDError(
                f"{final} was made by another process meanwhile; run the same command again, which keeps it if it is "
                "the same, or choose another --out"
            )
        _remove_leftover_folders(final)
        temporary = final.with_name(f".{final.name}.part-{secrets.token_hex(4)}")
        temporary.mkdir()
        try:
            with naming_file(final), _still_there(temporary, final):
                yield temporary
            if inputs is not None:
                inputs.check()
            _check_complete(temporary, final)
            os.replace(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


@contextlib.contextmanager
def _still_there(folder: Path, final) -> Iterator[None]:
    """Raises KDError when the temporary folder was removed, whichever error that has caused."""
    try:
        yield
    except Exception as error:
        if folder.is_dir():
            raise
        raise _vanished(folder, final) from error
    if not folder.is_dir():
        raise _vanished(folder, final)


def _vanished(folder: Path, final) -> KDError:
    return KDError(f"{final} was not written: its temporary folder {folder} was removed; run the same command again")


def _check_complete(folder: Path, final: Path) -> None:
    """Raises KDError when files have vanished from a folder that is about to get its name."""
    names = (read_manifest(folder) or {}).get("files", ())
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise KDError(f"{final / missing[0]} was removed while {final} was written: run the same command again")


def files_finished(out: Path, request: dict) -> dict | None:
    """The manifest of OUT.* if it is complete and was made from this request, else None.

    A run that was killed while it moved its files is finished first. Raises KDError when OUT was made from another
    request or was changed, and when its folder is not writable.
    """
    ensure_writable_folder(out.parent)
    with exclusive(out):
        _move(out, request)
    manifest = read_manifest(out.parent, f"{out.name}.{MANIFEST_NAME}")
    if manifest is None:
        return None
    check_same(f"{out}.{MANIFEST_NAME}", manifest, request)
    check_files(out.parent, manifest["files"])
    return manifest


@contextlib.contextmanager
def files_in_progress(
    out: Path, request: dict, names: list[str], inputs: Inputs | None = None
) -> Iterator[tuple[Path, dict]]:
    """Yield a folder to write the files `names` into, and the manifest to complete; they become OUT.* at the end.

    Raises KDError when one of the files exists already or cannot be written, when one of them is missing at the end,
    and when an input has changed.
    """
    with exclusive(out):
        for name in names:
            if (out.parent / name).exists():
                raise KDError(f"{out.parent / name} exists and was not made by this command; choose another --out")
        folder, manifest = _folder(out), dict(request)
        shutil.rmtree(folder, ignore_errors=True)  # left by a killed run
        folder.mkdir()
        try:
            with naming_file(f"{out}.*"), _still_there(folder, f"{out}.*"):
                yield folder, manifest
            if inputs is not None:
                inputs.check()
            _complete(out, names, folder, manifest)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        _move(out, request)
        _check_moved(out, manifest)


def _complete(out: Path, names: list[str], folder: Path, manifest: dict) -> None:
    """Write the manifest of the temporary folder. Raises KDError when one of the files is not in it."""
    manifest["files"] = hash_files(folder)
    if missing := sorted(set(names) - set(manifest["files"])):
        raise KDError(
            f"{out.parent / missing[0]} was removed from the temporary folder {folder} while it was written: run the "
            "same command again"
        )
    write_record(folder / MANIFEST_NAME, manifest)


def _folder(out: Path) -> Path:
    return out.parent / f".{out.name}.part"


def _move(out: Path, request: dict) -> None:
    """Give the files their names, the manifest last, if they are complete and were made from this request."""
    folder = _folder(out)
    manifest = read_manifest(folder)
    if manifest is None or any(manifest.get(name) != value for name, value in request.items()):
        return
    for name in manifest["files"]:
        if (folder / name).exists():
            os.replace(folder / name, out.parent / name)
    os.replace(folder / MANIFEST_NAME, out.parent / f"{out.name}.{MANIFEST_NAME}")
    folder.rmdir()


def _check_moved(out: Path, manifest: dict) -> None:
    """Raises KDError when the files have not got their names, because the temporary folder was removed."""
    listed = [*manifest["files"], f"{out.name}.{MANIFEST_NAME}"]
    if missing := [name for name in listed if not (out.parent / name).is_file()]:
        raise KDError(f"{out.parent / missing[0]} was removed while it was written; run the same command again")


def remove_leftovers(path, lock: bool = True) -> None:
    """Remove the temporary files and folders and the lock file that killed runs left next to the artefact `path`.

    Files that a living process holds stay. Where the lock cannot be taken, all folders stay. lock: False where the
    caller holds it.
    """
    path = Path(path).absolute()
    remove_leftover_files(path)
    if not lock:
        _remove_leftover_folders(path)
    elif lock_file(path).exists() or any(path.parent.glob(f".{path.name}.part-*")):
        with contextlib.suppress(KDError), exclusive(path):
            _remove_leftover_folders(path)


def _remove_leftover_folders(final: Path) -> None:
    """The caller holds the lock of `final`, so no living process writes to them."""
    for leftover in final.parent.glob(f".{final.name}.part-*"):
        shutil.rmtree(leftover)

"""Manifests: what an artefact was made from, with hashes, so that it can be checked when it is read.

An artefact is a folder (or a JSON file) written under a temporary name and renamed when it is complete. So what
stands under the final name is whole, and a process killed at any moment leaves only a temporary folder behind.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.artifacts.records import read_record
from fairseq_kd.core.errors import KDError
from fairseq_kd.version import __version__

MANIFEST_NAME = "manifest.json"
PREPARED = {"source_lang": str, "target_lang": str, "subsets": dict, "subword": dict, "files": dict}
PROBE = ".writable-"  # a file that is there for a moment
SECONDS_TO_PASS = 0.5  # for which a lock is tried before another process is said to be at work


def library_versions() -> dict:
    """Versions of the libraries that can change a result."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"fairseq_kd": __version__}
    names = ("ve-fairseq", "fairseq", "torch", "numpy", "sacrebleu", "sentencepiece", "subword-nmt", "pyarrow")
    for name in (*names, "ctranslate2"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


@contextlib.contextmanager
def file_in_progress(path):
    """Yield a new name beside `path` to write to; the file is renamed to `path` when the block ends well.

    The name is of this process alone, so two that write the same file do not mix their bytes.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_json(path, value) -> None:
    """Write `value` as JSON under a temporary name in the same folder, then rename it to `path`."""
    ensure_writable_folder(Path(path).parent)
    with file_in_progress(path) as temporary:
        temporary.write_bytes(_json_bytes(value))
        _sync(temporary)


def create_json(path, value) -> None:
    """Write `value` to `path` as `write_json` does, unless something stands there: see `create_file`."""
    ensure_writable_folder(Path(path).parent)
    create_file(path, [_json_bytes(value)])


def create_file(path, buffers) -> None:
    """Write `path` unless it is there, whole or not at all. Of several processes one writes; nothing is overwritten.

    What holds is what stands there afterwards: read it again. Raises OSError when it cannot be written.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            for buffer in buffers:
                file.write(buffer)
        _sync(temporary)
        os.chmod(temporary, 0o644)
        _name_once(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _name_once(temporary, path: Path) -> None:
    """A hard link is refused where the name is taken, in one step, also by network file systems."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except FileNotFoundError:  # the folder is gone
        raise
    except OSError:  # a file system without hard links
        with exclusive(path, wait=True):
            if not path.exists():
                os.replace(temporary, path)


def _json_bytes(value) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _sync(path) -> None:
    """Or the name could outlive a crash of the machine without the content."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def read_manifest(folder, name: str = MANIFEST_NAME) -> dict | None:
    """The manifest in `folder`, or None where there is none. Raises KDError when it is damaged."""
    return read_record(Path(folder) / name, "copy the folder again, or make it again")


def read_prepared(folder) -> dict | None:
    """The manifest of a data-bin that brings plain-text references and its subword model, else None.

    So does one made by `fairseq-kd prepare`, and what `decode` and `mix` made from it. Raises KDError when the manifest
    is damaged.
    """
    manifest = read_manifest(folder)
    if manifest is None or "subword" not in manifest:
        return None
    if missing := [name for name in PREPARED if not isinstance(manifest.get(name), PREPARED[name])]:
        raise KDError(f"{Path(folder) / MANIFEST_NAME} is damaged: {missing[0]!r} is missing. Copy the data-bin again")
    return manifest


def check_files(folder, files: dict) -> None:
    """Compare the sha256 of each file of a manifest (relative name -> hash) with the disk.

    Raises KDError that names the first file that is missing or differs.
    """
    for name, expected in files.items():
        path = Path(folder) / name
        if not path.is_file():
            raise KDError(f"{path} is missing although the manifest lists it; make {folder} again")
        found = sha256_file(path)
        if found != expected:
            raise KDError(
                f"{path} has sha256 {found[:16]}..., its manifest says {expected[:16]}...: the file was changed "
                f"after it was made; make {folder} again"
            )


def hash_files(folder) -> dict:
    """sha256 of every file below `folder` but the manifest, by relative name in sorted order."""
    folder = Path(folder)
    return {
        str(path.relative_to(folder)): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_NAME
    }


def ensure_writable_folder(folder) -> None:
    """Create `folder` if it is not there. Raises KDError when it cannot be created or written to."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, probe = tempfile.mkstemp(dir=folder, prefix=PROBE)
        os.close(handle)
        Path(probe).unlink(missing_ok=True)
    except OSError as error:
        raise KDError(
            f"cannot write to {folder} ({error.strerror or error}); choose another folder with --out"
        ) from error


def ensure_writable_file(path) -> None:
    """Create the folder of `path`. Raises KDError when a file cannot be written there, or `path` is a folder."""
    if Path(path).is_dir():
        raise KDError(f"cannot write to {path}: it is a folder; give the name of a file")
    ensure_writable_folder(Path(path).absolute().parent)


@contextlib.contextmanager
def exclusive(path, wait: bool = False):
    """Hold a lock on `path` (by a file beside it) during the block; it ends with the process, however that ends.

    wait: until another process has released it, and say so once on standard error. Else raises KDError when another
    holds it. Raises KDError where the file system has no locks: a mark that outlives its process is no lock.
    """
    path = Path(path)
    lock = FileLock(path.parent / f".{path.name}.lock", fallback_to_soft=False)
    try:
        _acquire(lock, path, wait)
    except FileNotFoundError:  # the folder is gone
        raise
    except OSError as error:
        raise KDError(
            f"cannot lock {path} ({error.strerror or error}), so two processes could write it at once; choose a folder "
            "on a file system with locks (flock) in which you may write"
        ) from error
    try:
        yield
    finally:
        # who waits for this file sees that it has lost its name, and takes a new one
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _acquire(lock: FileLock, path: Path, wait: bool) -> None:
    try:
        lock.acquire(timeout=SECONDS_TO_PASS)
    except Timeout as error:
        if not wait:
            raise KDError(f"another process is working on {path}; wait for it, or choose another --out") from error
        print(f"another process is working on {path}: waiting for it", file=sys.stderr, flush=True)
        lock.acquire()


@contextlib.contextmanager
def folder_in_progress(final):
    """Yield a temporary folder beside `final`, renamed to `final` when the block ends without an exception.

    Leftovers of runs that were killed are removed first. Raises KDError when the parent is not writable, and when
    another process has made `final` since the caller looked.
    """
    final = Path(final).absolute()
    ensure_writable_folder(final.parent)
    prefix = f".{final.name}.part-"
    with exclusive(final):
        if final.exists() and not (final.is_dir() and not any(final.iterdir())):
            raise KDError(
                f"{final} was made by another process meanwhile; run the same command again, which keeps it if it is "
                "the same, or choose another --out"
            )
        for leftover in final.parent.glob(f"{prefix}*"):
            shutil.rmtree(leftover)
        temporary = Path(tempfile.mkdtemp(dir=final.parent, prefix=prefix))
        try:
            yield temporary
            os.chmod(temporary, 0o755)
            os.replace(temporary, final)
        except BaseException:
            shutil.rmtree(temporary)
            raise

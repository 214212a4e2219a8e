"""Manifests: what an artefact was made from, with hashes, so that it can be checked when it is read.

An artefact is a folder (or a JSON file) written under a temporary name and renamed when it is complete. So what
stands under the final name is whole, and a process killed at any moment leaves only a temporary folder behind.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from fairseq_kd.errors import KDError
from fairseq_kd.version import __version__

MANIFEST_NAME = "manifest.json"
PROBE = ".writable-"  # a file that is there for a moment


def sha256_file(path) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def library_versions() -> dict:
    """Versions of the libraries that can change a result."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"fairseq_kd": __version__}
    names = ("ve-fairseq", "fairseq", "torch", "numpy", "sacrebleu", "sentencepiece", "subword-nmt", "pyarrow")
    for name in (*names, "ctranslate2"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def write_json(path, value) -> None:
    """Write `value` as JSON under a temporary name in the same folder, then rename it to `path`."""
    path = Path(path)
    ensure_writable_folder(path.parent)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())  # or the name could outlive a crash of the machine without the content
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_manifest(folder, name: str = MANIFEST_NAME) -> dict | None:
    """The manifest in `folder`, or None where there is none. Raises KDError when it is not readable JSON."""
    path = Path(folder) / name
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise KDError(f"{path} is not a readable manifest ({error}); make the folder again") from error


def read_prepared(folder) -> dict | None:
    """The manifest of a data-bin that brings plain-text references and its subword model, else None.

    So does one made by `fairseq-kd prepare`, and what `decode` and `mix` made from it.
    """
    manifest = read_manifest(folder)
    return manifest if manifest is not None and "subword" in manifest else None


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
def exclusive(path):
    """Hold a lock on `path` (by a file beside it) during the block; it ends with the process, however that ends.

    Raises KDError when another process holds it.
    """
    path = Path(path)
    lock = path.parent / f".{path.name}.lock"
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat())
        except BlockingIOError:
            locked = False
        if not locked:  # held, or released and removed between open and flock
            raise KDError(f"another process is working on {path}; wait for it, or choose another --out")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_in_progress(final):
    """Yield a temporary folder beside `final`, renamed to `final` when the block ends without an exception.

    Leftovers of runs that were killed are removed first. Raises KDError when the parent is not writable.
    """
    final = Path(final).absolute()
    ensure_writable_folder(final.parent)
    prefix = f".{final.name}.part-"
    with exclusive(final):
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

"""Files that appear whole or not at all: written under a temporary name in the same folder, then renamed.

A temporary name is `.NAME.` and eight characters. Its process holds a lock (flock) on it while it writes. So the next
process that writes NAME can tell the temporary files of killed processes from the files of living processes, and
removes the former. Permissions follow the umask.
"""

import contextlib
import errno
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from fairseq_kd.artifacts.locks import exclusive, try_lock
from fairseq_kd.core.errors import KDError

PROBE = ".writable-"  # name of a file that exists for a moment
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CannotWrite(KDError):
    """The disk is full, or a quota or the largest size of a file is reached. The message names the file."""


@contextlib.contextmanager
def naming_file(path) -> Iterator[None]:
    """Name `path` when the block cannot write it for lack of room. Raises CannotWrite.

    The system does not name the file, and torch reports a failed write as a RuntimeError without a reason.
    """
    try:
        yield
    except CannotWrite:
        raise
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise _cannot_write(path, error.strerror) from error
    except RuntimeError as error:
        if not re.search("PytorchStreamWriter|file write failed|unexpected pos", str(error)):
            raise
        raise _cannot_write(path, "torch could not write all of it") from error


def _cannot_write(path, reason: str) -> CannotWrite:
    return CannotWrite(f"cannot write {path} ({reason}): make room on the disk, then run the same command again")


class FileInProgress:
    """A file under a temporary name. `publish` gives it its own name, `discard` removes it.

    Two processes that write the same file have different temporary names, so their bytes do not mix.
    Raises OSError that names `path` when no file can be made there.
    """

    def __init__(self, path):
        self.path = Path(path)
        remove_leftover_files(self.path)
        self.temporary, self._handle = _new_file(self.path)

    def publish(self) -> None:
        """Give the file its name: see `rename`."""
        rename(self.temporary, self.path)
        os.close(self._handle)

    def discard(self) -> None:
        """Remove the temporary file."""
        self.temporary.unlink(missing_ok=True)
        os.close(self._handle)


def rename(temporary, path) -> None:
    """Write the content of a complete temporary file through to the disk and give it the name `path`.

    Without the first step the name could survive a crash of the machine, and the content not. Raises CannotWrite.
    """
    with naming_file(path):
        _sync(temporary)
        os.replace(temporary, path)


def _new_file(path: Path) -> tuple[Path, int]:
    """A new temporary file in the folder of `path` and its descriptor, which holds the lock."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        try:
            locked = try_lock(handle)
        except OSError:  # a file system without locks: nobody removes leftovers there
            locked = True
        if locked and os.fstat(handle).st_nlink:
            return temporary, handle
        os.close(handle)  # another process took it for a leftover, in the moment before it was locked


@contextlib.contextmanager
def file_in_progress(path) -> Iterator[Path]:
    """Yield a temporary name in the folder of `path` to write to, and rename that file to `path` at the end.

    An exception in the block removes the file. Raises CannotWrite, which names `path`, when the disk is full.
    """
    file = FileInProgress(path)
    try:
        with naming_file(path):
            yield file.temporary
        file.publish()
    except BaseException:
        file.discard()
        raise


def write_buffers(path, buffers) -> None:
    """Write bytes-like objects, one after the other, to the file `path`: whole or not at all."""
    with file_in_progress(path) as temporary, open(temporary, "wb") as file:
        for buffer in buffers:
            file.write(buffer)


def write_text(path, text: str) -> None:
    """Write `text` as UTF-8 to the file `path`: whole or not at all."""
    write_buffers(path, [text.encode("utf-8")])


def write_json(path, value) -> None:
    """Write `value` as JSON to the file `path`, whole or not at all; make its folder if needed.

    Raises KDError when the folder cannot be made or written to.
    """
    ensure_writable_folder(Path(path).parent)
    write_buffers(path, [_json_bytes(value)])


def create_json(path, value) -> None:
    """Write `value` to `path` as `write_json` does, unless the file exists: see `create_file`."""
    ensure_writable_folder(Path(path).parent)
    create_file(path, [_json_bytes(value)])


def create_file(path, buffers) -> None:
    """Write `path`, whole or not at all, unless it exists. Only one of several processes writes it; nothing is
    overwritten.

    The file may be another process's afterwards: read it again. Raises OSError when it cannot be written.
    """
    path = Path(path)
    file = FileInProgress(path)
    try:
        with naming_file(path):
            with open(file.temporary, "wb") as opened:
                for buffer in buffers:
                    opened.write(buffer)
            _sync(file.temporary)
        _name_once(file.temporary, path)
    finally:
        file.discard()


def _name_once(temporary: Path, path: Path) -> None:
    """Give the file its name unless that is taken. A hard link does so in one step, also on network file systems."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except FileNotFoundError:  # the folder was removed
        raise
    except OSError:  # a file system without hard links
        with exclusive(path, wait=True):
            if not path.exists():
                os.replace(temporary, path)


def _json_bytes(value) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _sync(path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def remove_leftover_files(path) -> None:
    """Remove the temporary files that killed processes left for `path`. A file that a living process holds stays."""
    path = Path(path)
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}")
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # the caller finds out that there is no folder
        for name in os.listdir(path.parent):
            if pattern.fullmatch(name):
                _remove_unheld(path.parent / name)


def _remove_unheld(file: Path) -> None:
    with contextlib.suppress(OSError), open(file, "r+b") as opened:  # not ours, or a file system without locks
        if try_lock(opened):
            file.unlink(missing_ok=True)


def ensure_writable_folder(folder) -> None:
    """Make `folder` if it does not exist. Raises KDError when it cannot be made or written to."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"{PROBE}{secrets.token_hex(4)}"
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        for leftover in folder.glob(f"{PROBE}*"):  # this one, and the probes of killed processes
            leftover.unlink(missing_ok=True)
    except OSError as error:
        raise KDError(
            f"cannot write to {folder} ({error.strerror or error}); choose another folder with --out"
        ) from error


def ensure_writable_file(path) -> None:
    """Make the folder of `path`. Raises KDError when a file cannot be written there, or `path` is a folder."""
    if Path(path).is_dir():
        raise KDError(f"cannot write to {path}: it is a folder; give the name of a file")
    ensure_writable_folder(Path(path).absolute().parent)

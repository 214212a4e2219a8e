"""Locks between processes. The system releases them when a process ends, however it ends.

`exclusive` guards a path by a lock file in the same folder, `.NAME.lock`, which is removed with the lock. `held` and
`is_held` work on a file that stays, such as the lock file of a study's stage.
"""

import contextlib
import fcntl
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from fairseq_kd.core.errors import KDError

SECONDS_TO_PASS = 0.5  # a lock is tried for this long before the other process is reported


@contextlib.contextmanager
def exclusive(path, wait: bool = False) -> Iterator[None]:
    """Hold a lock on `path` during the block.

    wait: until another process has released it, and say so once on standard error. Without it, a lock that another
    process holds raises KDError. Raises KDError where the file system has no locks: a mark that outlives its process
    is not a lock. Raises FileNotFoundError when the folder of `path` does not exist.
    """
    path = Path(path)
    lock = FileLock(lock_file(path), fallback_to_soft=False)
    try:
        _acquire(lock, path, wait)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise KDError(
            f"cannot lock {path} ({error.strerror or error}), so two processes could write it at once; choose a folder "
            "on a file system with locks (flock) in which you may write"
        ) from error
    try:
        yield
    finally:
        # a process that waits for this file sees that its name no longer exists, and makes a new file
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def lock_file(path) -> Path:
    """The file by which `exclusive` locks `path`."""
    path = Path(path)
    return path.parent / f".{path.name}.lock"


def _acquire(lock: FileLock, path: Path, wait: bool) -> None:
    try:
        lock.acquire(timeout=SECONDS_TO_PASS)
    except Timeout as error:
        if not wait:
            raise KDError(f"another process is working on {path}; wait for it, or choose another --out") from error
        print(f"another process is working on {path}: waiting for it", file=sys.stderr, flush=True)
        lock.acquire()


def try_lock(file) -> bool:
    """Lock an open file or descriptor until it is closed; False when another process holds it.

    Raises OSError where the file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def held(path) -> Iterator[None]:
    """Hold a lock on the file `path` itself, which is created if needed and stays; wait until it is free."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_held(path) -> bool:
    """Whether a process holds the lock on the file `path`; False where the file does not exist."""
    with contextlib.suppress(FileNotFoundError), open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False

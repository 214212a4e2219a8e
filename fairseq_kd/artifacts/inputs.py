"""Files that a command reads: its manifest must describe the content that was read.

A command can read for hours, and another process can replace, cut off or remove a file meanwhile. So the command
looks at its inputs before it opens them, hashes them, and compares before it publishes:

    with Inputs() as inputs:
        inputs.watch(teacher, *files)      # before they are opened: device, inode, size, time of change
        ... read ...
        request = {"teacher": inputs.loaded(teacher), "data": inputs.hashes(folder, files)}
        ... compute ...
        inputs.check()                     # before the result gets its name

`folder_in_progress`, `files_in_progress` and `blocks.work_through` take the inputs and check them. When the block ends
by an error while an input has changed, the error is replaced by one that names the input.
"""

import os
from pathlib import Path
from typing import NamedTuple

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.core.errors import KDError

# the files of a data-bin that are read
DATA_BIN_FILES = ("*.bin", "*.idx", "dict.*.txt", "manifest.json", "raw/*", "subword/*")


class Stamp(NamedTuple):
    """Properties of a file that show, without reading it, that it is still the same."""

    device: int
    inode: int
    size: int
    changed_ns: int

    @classmethod
    def of(cls, path) -> "Stamp":
        """Raises OSError when the file cannot be looked at."""
        found = os.stat(path)
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class Inputs:
    """The input files of one command, by absolute path. See the module for its use."""

    def __init__(self):
        self._stamps: dict[str, Stamp] = {}
        self._hashes: dict[str, str] = {}

    def __enter__(self) -> "Inputs":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        """Raises KDError that names a changed input, when the block ended by an error."""
        if isinstance(error, Exception) and (change := self._change()) is not None:
            raise KDError(change) from error

    def watch(self, *paths) -> None:
        """Look at files before they are opened. Ignores missing paths: the code that reads them reports them."""
        for path in paths:
            name = os.path.abspath(path)
            if name not in self._stamps and os.path.isfile(name):
                self._stamps[name] = Stamp.of(name)

    def watch_data_bin(self, folder) -> None:
        """Look at all files of a data-bin that this package reads: data, dictionaries, manifest, subwords, raw text."""
        folder = Path(folder)
        for pattern in DATA_BIN_FILES:
            self.watch(*folder.glob(pattern))

    def sha256(self, path) -> str:
        """Hex sha256 of a file, computed once, of the content that it had when it was first watched.

        Raises KDError when the file has changed since, and OSError when it cannot be read.
        """
        name = os.path.abspath(path)
        if name not in self._hashes:
            self._stamps.setdefault(name, Stamp.of(name))
            self._hashes[name] = sha256_file(name)
            if (change := self._change_of(name, hashed=False)) is not None:
                del self._hashes[name]
                raise KDError(change)
        return self._hashes[name]

    def loaded(self, path) -> str:
        """The sha256 of a file that is in memory as a whole now; what happens to the file later does not matter.

        Raises KDError when the file has changed since it was first looked at.
        """
        name, found = os.path.abspath(path), self.sha256(path)
        if name in self._stamps:  # else it was loaded before: an ensemble can hold a teacher twice
            if (change := self._change_of(name)) is not None:
                raise KDError(change)
            del self._stamps[name]
        return found

    def hashes(self, folder, names) -> dict[str, str]:
        """Name -> hex sha256, for the named files that exist in `folder`."""
        paths = [Path(folder) / name for name in names]
        return {path.name: self.sha256(path) for path in paths if path.is_file()}

    def check(self) -> None:
        """Raises KDError that names the first input that has changed or was removed."""
        if (change := self._change()) is not None:
            raise KDError(change)

    def _change(self) -> str | None:
        return next(filter(None, map(self._change_of, list(self._stamps))), None)

    def _change_of(self, name: str, hashed: bool = True) -> str | None:
        """A description of the change of a file, None if its content is the same.

        hashed: compare hashes where stamps differ.
        """
        try:
            now = Stamp.of(name)
            if now == self._stamps[name]:
                return None
            if hashed and name in self._hashes and sha256_file(name) == self._hashes[name]:
                self._stamps[name] = now  # copied or touched, with the same content
                return None
        except OSError as error:
            return (
                f"input {name} was removed or cannot be read any more ({error.strerror}), so nothing was made from it: "
                "put it back, then run the same command again"
            )
        before = self._stamps[name]
        size = f" ({before.size:,} bytes before, {now.size:,} bytes now)" if before.size != now.size else ""
        return (
            f"input {name} was changed or replaced while it was read{size}, so a result could mix the old file and the "
            "new one and was not written: run the same command again when nothing writes this file"
        )

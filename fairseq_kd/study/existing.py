"""Artefacts that a study takes as they are: a data-bin, teachers, caches, distilled data and monolingual text, which a
spec names by path.

In a planned command `@existing/NAME` is the path of such an artefact. NAME is KIND-HASH, and HASH is made from the
contents of its files alone. So an artefact that was moved or copied gives the same names of stages, and a changed one
gives others. plan.json has the path and the sha256 of each file. The process of a stage compares them before and after
its command: an artefact that changes during a study is an error.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from fairseq_kd.artifacts.hashes import sha256_file, sha256_of_several
from fairseq_kd.artifacts.inputs import DATA_BIN_FILES, Inputs
from fairseq_kd.artifacts.manifest import MANIFEST_NAME
from fairseq_kd.core.errors import KDError
from fairseq_kd.study.key import parts_of, with_parts

PREFIX = "@existing/"
HASH_LENGTH = 12  # hexadecimal digits
# kind -> patterns of its files; "" is the path itself. The manifest of a cache has the hashes of the other files, which
# every training compares.
FILES = {"data-bin": DATA_BIN_FILES, "teacher": ("",), "cache": (MANIFEST_NAME,), "text": ("",)}


def file_names(kind: str, path) -> list[str]:
    """Names of the files on which an artefact depends, relative to its path, sorted."""
    if FILES[kind] == ("",):
        return [""]
    found = (file for pattern in FILES[kind] for file in Path(path).glob(pattern) if file.is_file())
    return sorted(str(file.relative_to(path)) for file in found)


class Existing:
    """The existing artefacts of one study, each hashed once.

    artefacts: NAME -> {"kind", "path", "files": {name: sha256}}.
    """

    def __init__(self):
        self.artefacts = {}
        self._names = {}  # (kind, path) -> NAME

    def add(self, kind: str, path) -> str:
        """The word for the artefact in planned commands. The caller has checked that the path exists."""
        path = os.path.abspath(path)
        if (kind, path) not in self._names:
            files = {name: sha256_file(os.path.join(path, name) if name else path) for name in file_names(kind, path)}
            digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
            name = f"{kind}-{digest[:HASH_LENGTH]}"
            self._names[kind, path] = name
            self.artefacts.setdefault(name, {"kind": kind, "path": path, "files": files})
        return PREFIX + self._names[kind, path]

    def of(self, word: str) -> dict | None:
        """The artefact that a part of a word of a command names (`key.parts_of`); None for a part that names none."""
        return self.artefacts.get(word.removeprefix(PREFIX)) if word.startswith(PREFIX) else None


def existing_path(word: str, artefacts: dict) -> str:
    """The word with the paths of the artefacts that it names; another word as it is. artefacts: see `Existing`."""

    def path(part: str) -> str:
        return artefacts[part.removeprefix(PREFIX)]["path"] if part.startswith(PREFIX) else part

    return with_parts(word, path)


def names_of_several(members: list[str]) -> set[str]:
    """The sha256s by which manifests name several teachers: in their order (`decode`) or sorted (`cache`)."""
    return {sha256_of_several(order) for order in (members, sorted(members))}


@contextlib.contextmanager
def unchanged(command: list[str], artefacts: dict) -> Iterator[None]:
    """Compare the artefacts that a planned command names with the plan, before and after the block.

    Raises KDError that names the first file that has changed, was removed, or is new.
    """
    parts = [part for word in command for part in parts_of(word)]
    names = dict.fromkeys(part.removeprefix(PREFIX) for part in parts if part.startswith(PREFIX))
    with Inputs() as inputs:
        for name in names:
            _compare(artefacts[name], inputs)
        yield
        inputs.check()
        for name in names:
            _compare_names(artefacts[name])


def _compare(artefact: dict, inputs: Inputs) -> None:
    _compare_names(artefact)
    for name, expected in artefact["files"].items():
        path = os.path.join(artefact["path"], name) if name else artefact["path"]
        inputs.watch(path)
        if inputs.sha256(path) != expected:
            raise KDError(_changed(f"{path} was changed"))


def _compare_names(artefact: dict) -> None:
    path, kind = artefact["path"], artefact["kind"]
    if not os.path.exists(path):
        raise KDError(_changed(f"{path} was removed"))
    if different := sorted(artefact["files"].keys() ^ set(file_names(kind, path))):
        what = "was removed" if different[0] in artefact["files"] else "is new"
        raise KDError(_changed(f"{os.path.join(path, different[0])} {what}"))


def _changed(what: str) -> str:
    return (
        f"{what} since the study was planned, so this stage would not be what its name says: put the file back, or run "
        "`fairseq-kd study run` again, which plans new stages for the changed content"
    )

"""Files of the user's own that options name: stages run in another folder, and keys must change with their content."""

import os
from pathlib import Path

from fairseq_kd.corpus.manifest import MANIFEST_NAME, hash_files, sha256_file
from fairseq_kd.errors import KDError

OPTIONS = ("finetune-from-model", "restore-file", "encoder-embed-path", "decoder-embed-path", "like", "subword-model")
OPTIONS += ("reference", "teacher", "teacher-data")  # the last two of `evaluate`, `teacher-data` of others too
LISTS = ("user-dir",)  # one folder, or a list of them
COMPILED = "__pycache__"  # what Python leaves beside code that it has imported
OF_FAIRSEQ = ("checkpoint_last.pt",)  # a name that is no path


def with_files(where: str, options: dict, known: dict) -> tuple[dict, dict | None]:
    """The options with absolute paths, and option -> hashes of the files that they name, None where they name none.

    known: path -> hash, for the files that several cells share. Raises KDError for a file that is not there.
    """
    options, hashes = dict(options), {}
    for name in OPTIONS:
        value = options.get(name)
        if isinstance(value, str) and not value.startswith("@") and value not in OF_FAIRSEQ:
            paths = [os.path.abspath(part) for part in value.split(os.pathsep)]
            options[name] = os.pathsep.join(paths)
            hashes[name] = _hashes(paths, f"{where}: {name} {value}", known)
    for name in LISTS:
        if name in options:
            value = options[name]
            paths = [os.path.abspath(str(part)) for part in (value if isinstance(value, list) else [value])]
            options[name] = paths
            hashes[name] = _hashes(paths, f"{where}: {name} {value}", known)
    return options, hashes or None


def _hashes(paths: list[str], what: str, known: dict) -> list:
    for path in paths:
        if path not in known:
            known[path] = _hash(path, what)
    return [known[path] for path in paths]


def _hash(path: str, what: str) -> str | dict:
    """sha256 of a file, of the manifest in a folder, or else of each file in it."""
    if not os.path.exists(path):
        raise KDError(f"{what}: {path} is not there; give a file that is, or leave the option out")
    if os.path.isfile(path):
        return sha256_file(path)
    manifest = Path(path) / MANIFEST_NAME
    if manifest.is_file():
        return sha256_file(manifest)
    return {name: found for name, found in hash_files(path).items() if COMPILED not in Path(name).parts}

"""Files of the user's own that options name: stages run in another folder, and keys must change with their content."""

import os
from pathlib import Path

from fairseq_kd.corpus.manifest import MANIFEST_NAME, hash_files, sha256_file
from fairseq_kd.errors import KDError

OPTIONS = ("finetune-from-model", "restore-file", "encoder-embed-path", "decoder-embed-path", "like", "subword-model")
OPTIONS += ("reference", "teacher", "teacher-data")  # the last two of `evaluate`, `teacher-data` of others too
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
            for path in paths:
                if path not in known:
                    known[path] = _hash(path, f"{where}: {name} {value}")
            hashes[name] = [known[path] for path in paths]
    return options, hashes or None


def _hash(path: str, what: str) -> str | dict:
    """sha256 of a file, of the manifest in a folder, or else of each file in it."""
    if not os.path.exists(path):
        raise KDError(f"{what}: {path} is not there; give a file that is, or leave the option out")
    if os.path.isfile(path):
        return sha256_file(path)
    manifest = Path(path) / MANIFEST_NAME
    return sha256_file(manifest) if manifest.is_file() else hash_files(path)

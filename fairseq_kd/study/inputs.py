"""Files of the user's own that options name: stages run in another folder, and keys must change with their content.

What identifies the raw text of a cell, and the subsets that it gives, found before anything runs.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from fairseq_kd.artifacts.manifest import MANIFEST_NAME, hash_files, sha256_file
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.corpora import CORPORA
from fairseq_kd.corpus.entry import text_files
from fairseq_kd.training.options import nearest

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


SUBSETS = ("train", "valid", "test")


@dataclass(frozen=True)
class RawText:
    """hashes: file name -> sha256 of the user's own text, size where `prepare` knows the corpus; None without files."""

    subsets: tuple
    hashes: dict | None

    def check_subset(self, path, subset: str) -> None:
        """Raises KDError, naming the spec, for a subset to evaluate that the data lack."""
        if subset not in self.subsets:
            raise KDError(f"{path}: evaluate has the subset {subset!r}, which the data lack; the nearest of theirs is "
                          f"{nearest(subset, self.subsets)!r}")  # fmt: skip


def raw_text(path, data: dict) -> RawText:
    """The files that `prepare` will read for a section `data` of the spec `path`, and no others.

    Raises KDError when files are missing, or the named corpus in `raw` is not the official one.
    """
    name, raw = data["name"], data.get("raw")
    if raw is not None and "raw" not in CORPORA[name].takes:
        raise KDError(f"{path}: raw has no effect with the {name} corpus: it is generated")
    if raw is not None and not Path(raw).is_dir():
        raise KDError(f"{path}: {raw} is not a folder; give the one with your raw files as raw in data, or by --raw")
    if name == "text":
        return _own_text(path, data)
    subsets = tuple(dict.fromkeys((*SUBSETS, *CORPORA[name].subsets)))
    return RawText(subsets, None if raw is None else _sizes(name, data))


def _sizes(name: str, data: dict) -> dict:
    files = CORPORA[name].raw_files((data["source-lang"], data["target-lang"]), data["raw"])
    return {name: files[name].stat().st_size for name in sorted(files)}


def _own_text(path, data: dict) -> RawText:
    if data.get("raw") is None:
        raise KDError(f"{path}: data lacks 'raw', the folder with your files (or give --raw)")
    files = text_files(data["raw"], data["source-lang"], data["target-lang"], _stems(data))
    hashes = {file.name: sha256_file(file) for pair in files.values() for file in (pair.source, pair.target)}
    return RawText(tuple(files), hashes)


def _stems(data: dict) -> dict | None:
    if not set(SUBSETS) <= set(data):
        return None
    tests = data["test"] if isinstance(data["test"], list) else [data["test"]]
    named = {f"test{number or ''}": stem for number, stem in enumerate(tests)}
    return {"train": data["train"], "valid": data["valid"]} | named

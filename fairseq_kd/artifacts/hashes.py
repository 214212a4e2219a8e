"""sha256 of files, of dictionaries and of the data of a data-bin, for manifests.

A process hashes a file once while the file stays the same, however many checks ask for its hash.
"""

import hashlib
import os
import time
from pathlib import Path

SECONDS_UNTIL_KEPT = 2  # file systems record times in steps: a file that changed just now can change again unseen
_known: dict[tuple[int, int, int, int], str] = {}


def sha256_file(path) -> str:
    """Hex sha256 of a file's bytes. Raises OSError when the file cannot be read.

    The hash is kept by device, inode, size and time of change, so a replaced or changed file is hashed again. The hash
    of a file that was changed in the last seconds is not kept.
    """
    before = _stamp(path)
    if before in _known:
        return _known[before]
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    is_settled = time.time_ns() - before[-1] > SECONDS_UNTIL_KEPT * 1e9
    if is_settled and _stamp(path) == before:
        _known[before] = digest.hexdigest()
    return digest.hexdigest()


def _stamp(path) -> tuple[int, int, int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def sha256_of_several(members: list[str]) -> str:
    """The sha256 by which manifests and results name several files: of their sha256s; one file has its own."""
    return members[0] if len(members) == 1 else hashlib.sha256("\n".join(members).encode()).hexdigest()


def dictionary_hash(dictionary) -> str:
    """sha256 over the symbols of a fairseq dictionary, joined by newline."""
    return hashlib.sha256("\n".join(dictionary.symbols).encode()).hexdigest()


def data_files(folder, subset: str, source_lang: str, target_lang: str) -> list[str]:
    """Names of the .bin and .idx files that fairseq reads for a subset, including train1, train2, ... for train."""
    pairs = (f"{source_lang}-{target_lang}", f"{target_lang}-{source_lang}")
    names, number = [], 0
    while True:
        split = f"{subset}{number or ''}"
        found = [
            f"{split}.{pair}.{lang}.{kind}"
            for pair in pairs
            for lang in (source_lang, target_lang)
            for kind in ("bin", "idx")
        ]
        found = [name for name in found if (Path(folder) / name).is_file()]
        if not found or (number and subset != "train"):  # fairseq-train combines train, train1, ...
            return names
        names, number = names + found, number + 1


def files_of_side(names, lang: str) -> list[str]:
    """The names, out of a result of `data_files`, of the files that contain the sentences in `lang`."""
    found = []
    for name in names:
        rest = name.partition(".")[2][: -len(".bin")]  # SOURCE-TARGET.LANG
        pair = rest.removesuffix(f".{lang}")
        if pair != rest and (pair.startswith(f"{lang}-") or pair.endswith(f"-{lang}")):
            found.append(name)
    return found


def data_hashes(folder, names) -> dict[str, str]:
    """File name -> sha256, for the named files that exist in `folder`."""
    paths = [Path(folder) / name for name in names]
    return {path.name: sha256_file(path) for path in paths if path.is_file()}

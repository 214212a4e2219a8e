"""Hashes that identify data and dictionaries by content, for manifests."""

import hashlib
from pathlib import Path

from fairseq_kd.artifacts.hashes import sha256_file


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
    """The names among those of `data_files` whose files contain the sentences in `lang`."""
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

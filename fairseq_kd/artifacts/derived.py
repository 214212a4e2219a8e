"""Data-bins that differ from an original in one subset.

Dictionaries, other subsets, plain-text references and the subword model are hard links to the original's files (copies
where the file system has no links). So fairseq-train, fairseq-generate and `fairseq-kd evaluate` use them like the
original's.
"""

import contextlib
import os
import re
import shutil
from pathlib import Path

import numpy as np
import torch

from fairseq_kd.artifacts.data_bin import check_format, format_of, load_side
from fairseq_kd.artifacts.data_bin_check import check_the_rest, read_dictionary
from fairseq_kd.artifacts.hashes import data_files, sha256_file
from fairseq_kd.artifacts.manifest import read_manifest
from fairseq_kd.artifacts.writing import FileInProgress, file_in_progress, naming_file

INHERITED = ("source_lang", "target_lang", "subsets", "subword", "joint_dictionary", "form", "reserved")


def link(source, destination) -> None:
    """Make `destination` a hard link to `source`, or a copy where the file system has no hard links."""
    destination = Path(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    destination.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        os.link(os.path.realpath(source), destination)
        return
    with file_in_progress(destination) as temporary:
        shutil.copyfile(source, temporary)


def can_be_linked(original, side: str) -> bool:
    """Whether one side of a subset can be used together with a side that `SideWriter` writes: fairseq needs one format
    for both.

    side: "train.de-en.de", for example, without the ending.
    """
    return format_of(Path(original) / side) == "mmap"


def take_side(original, side: str, out, dictionary) -> list[str]:
    """Take a side of `original` over to `out`: linked, or rewritten in the format of `SideWriter`. Return its names."""
    if can_be_linked(original, side):
        names = [f"{side}.{ending}" for ending in ("bin", "idx")]
        for name in names:
            link(Path(original) / name, Path(out) / name)
        return names
    dataset = load_side(Path(original) / side, dictionary)
    with SideWriter(out, side, dictionary) as writer:
        for number in range(len(dataset)):
            writer.add(dataset[number])
        return writer.close()


def link_the_rest(original, out, subset: str, languages: tuple[str, str]) -> list[str]:
    """Link all files of a data-bin except those of `subset`; return their names, relative to `out`.

    Subsets in fairseq's older format are rewritten, because one training reads one format.
    Raises KDError when a file was changed or removed since the manifest of `original` was written.
    """

    original, out = Path(original), Path(out)
    left_out = set(data_files(original, subset, *languages))
    found = sorted(path for path in original.iterdir() if path.suffix in (".bin", ".idx") or _is_dictionary(path))
    found += sorted(path for folder in ("subword", "raw") for path in (original / folder).glob("*"))
    names = [str(path.relative_to(original)) for path in found]
    names = [name for name in names if name not in left_out and not name.startswith(f"raw/{subset}.")]
    check_the_rest(original, subset)
    for side in _other_sides(original, subset, languages):
        check_format(original / side)
    dictionaries = {lang: original / f"dict.{lang}.txt" for lang in languages}
    again = {name.rsplit(".", 1)[0] for name in names if _is_older_side(original, name, dictionaries)}
    names = [name for name in names if name.rsplit(".", 1)[0] not in again]
    for name in names:
        link(original / name, out / name)
    for side in sorted(again):
        names += take_side(original, side, out, read_dictionary(dictionaries[_language_of(side, dictionaries)]))
    return names


def _other_sides(original: Path, subset: str, languages: tuple[str, str]) -> list[str]:
    """The sides of other subsets, in any format, without their file endings."""
    source, target = languages
    pairs = (f"{source}-{target}", f"{target}-{source}")
    ending = "|".join(re.escape(f".{pair}.{lang}") for pair in pairs for lang in languages)
    found = filter(None, (re.match(rf"([^.]+)({ending})(\.|$)", path.name) for path in original.iterdir()))
    return sorted({side[1] + side[2] for side in found if not re.fullmatch(rf"{re.escape(subset)}\d*", side[1])})


def _is_older_side(original: Path, name: str, dictionaries: dict) -> bool:
    """Whether fairseq-train could not read this side together with sides that `SideWriter` writes."""
    side, ending = name.rsplit(".", 1)
    return ending == "idx" and _language_of(side, dictionaries) is not None and format_of(original / side) == "cached"


def _language_of(side: str, languages) -> str | None:
    """The language at the end of the path of a side, or None. Language codes may contain full stops."""
    return next((lang for lang in languages if side.endswith(f".{lang}")), None)


def _is_dictionary(path: Path) -> bool:
    return path.name.startswith("dict.") and path.suffix == ".txt"


def inherited(original, subset: str) -> dict:
    """The entries that the manifest of a derived data-bin takes over from the original's manifest, if it has one."""
    manifest = read_manifest(original) or {}
    kept = {name: manifest[name] for name in INHERITED if name in manifest}
    if "subsets" in kept:
        kept["subsets"] = {name: value for name, value in kept["subsets"].items() if name != subset}
    return kept


def hashes(out, names) -> dict[str, str]:
    """sha256 of the named files in `out`, by name in sorted order."""
    return {name: sha256_file(Path(out) / name) for name in sorted(names)}


class SideWriter:
    """Writes one side of a subset in fairseq's mmap format, in order.

        with SideWriter(folder, name, dictionary) as writer:
            writer.add(tokens)
            names = writer.close()

    Both files get their names when it is closed; without that the end of the block removes them.
    """

    def __init__(self, folder, name: str, dictionary):
        """name: "train.de-en.en", for example, without the ending."""
        from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder, best_fitting_int_dtype

        self.final = Path(folder) / name
        self.dtype = best_fitting_int_dtype(len(dictionary))
        self._data, self._index = (FileInProgress(f"{self.final}.{ending}") for ending in ("bin", "idx"))
        self._files = [self._data, self._index]  # files that have no name yet
        self._builder = MMapIndexedDatasetBuilder(str(self._data.temporary), dtype=self.dtype)

    def __enter__(self) -> "SideWriter":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        for file in self._files:
            file.discard()

    def add(self, tokens) -> None:
        """Append a sentence: its token ids with EOS at the end, a tensor or an array. Raises CannotWrite."""
        with naming_file(self._data.path):
            self._builder.add_item(torch.as_tensor(np.asarray(tokens)))

    def close(self) -> list[str]:
        """Write the index and give both files their names; return these. Raises CannotWrite."""
        with naming_file(self._data.path):
            self._builder.finalize(str(self._index.temporary))
        while self._files:
            self._files[-1].publish()
            self._files.pop()
        return [f"{self.final.name}.{ending}" for ending in ("bin", "idx")]

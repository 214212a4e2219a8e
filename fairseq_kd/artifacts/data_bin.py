"""What a data-bin contains: its languages, the format of each side, and the number of sentences of each side.

Language codes may contain hyphens and full stops: pt-BR, zh.Hans.

fairseq-preprocess --dataset-impl NAME writes one of these formats. fairseq recognises them by the index:

    mmap              the default, and the format that this package writes
    lazy, cached      one format (TNTIDX) with two readers; `cached` answers only after a prefetch, `lazy` always
    raw               text that is not binarised
    fasta, huffman    symbols without the end-of-sentence symbol, or with ids of a separate vocabulary

This package reads mmap, lazy and cached, and refuses the others by name.
"""

import itertools
import os
import re
import struct
from pathlib import Path
from typing import NamedTuple

from fairseq_kd.artifacts.data_bin_check import check_content
from fairseq_kd.artifacts.manifest import read_manifest
from fairseq_kd.core.errors import KDError

Pair = tuple[str, str]


def language_pairs(data_bin) -> list[Pair]:
    """The language pairs (source, target) that a data-bin may have: usually one, none if nothing shows the languages.

    The manifest names the pair, else the file names, the training set first. fairseq's own rule splits
    `train.en-pt-BR.en.bin` at each hyphen and then finds no pair. So this function takes the codes from the names of
    the dictionaries (`dict.pt-BR.txt`), and uses fairseq's rule only where a dictionary is missing.
    Raises KDError for a damaged manifest.
    """
    manifest = read_manifest(data_bin) or {}
    if manifest.get("source_lang") and manifest.get("target_lang"):
        return [(manifest["source_lang"], manifest["target_lang"])]
    names = sorted(os.listdir(data_bin))
    languages = [name[len("dict.") : -len(".txt")] for name in names if name.startswith("dict.")]
    training = [name for name in names if name.startswith("train.")]
    return _pairs_named(training, languages) or _pairs_named(names, languages) or _pair_of_fairseq(data_bin)


def _pairs_named(names: list[str], languages: list[str]) -> list[Pair]:
    """The pairs in names such as SUBSET.SOURCE-TARGET.LANG, with the ending .bin or .idx or without one."""
    found = {
        (source, target)
        for rest in {name.partition(".")[2].removesuffix(".bin").removesuffix(".idx") for name in names}
        for source in languages
        if rest.startswith(f"{source}-")
        for target in languages
        if source != target and rest in (f"{source}-{target}.{source}", f"{source}-{target}.{target}")
    }
    return sorted(found)


def _pair_of_fairseq(data_bin) -> list[Pair]:
    from fairseq.data.data_utils import infer_language_pair

    source, target = infer_language_pair(str(data_bin))
    return [(source, target)] if source and target else []


def subsets_of(data_bin, languages: tuple[str, str]) -> list[str]:
    """All subsets of a data-bin, "train" first; train1, train2, ... belong to "train"."""
    source, target = map(re.escape, languages)
    pattern = re.compile(rf"([^.]+)\.(?:{source}-{target}|{target}-{source})\.{source}\.idx")
    found = {match[1] for path in Path(data_bin).iterdir() if (match := pattern.fullmatch(path.name))}
    return ["train", *sorted(name for name in found if not re.fullmatch(r"train\d*", name))]


READ_BY = {"mmap": "mmap", "cached": "lazy"}  # format, as fairseq infers it -> dataset_impl that reads it
REFUSED = {
    "raw": "holds text that is not binarised (fairseq-preprocess --dataset-impl raw)",
    "fasta": "is a FASTA file (--dataset-impl fasta), whose letters are its symbols",
    "huffman": "is compressed by a Huffman code (--dataset-impl huffman), whose ids are not ids of the dictionary",
}


class Part(NamedTuple):
    """One of train, train1, ...: the paths of its sides without file ending. The target may be missing."""

    source: Path
    target: Path


def parts_of(folder, subset: str, languages: tuple[str, str], combine: bool) -> list[Part]:
    """The parts of a subset as fairseq finds them: `subset`, and if combined also subset1, subset2, ..."""
    found = []
    for number in itertools.count() if combine else (0,):
        split = f"{subset}{number or ''}"
        part = next((part for part in _candidates(Path(folder), split, languages) if format_of(part.source)), None)
        if part is None:
            break
        found.append(part)
    return found


def check_sides(folder, subset: str, languages: tuple[str, str], combine: bool = False) -> None:
    """Raises KDError when the two sides of a part of the subset have different numbers of sentences.

    Sides that do not exist, and sides of a format that is not read, are not compared.
    """
    for part in parts_of(folder, subset, languages, combine):
        if all(format_of(side) in READ_BY for side in part):
            counts = [sentences(side) for side in part]
            if counts[0] != counts[1]:
                raise KDError(_unequal(part, counts))


def check_trainable(folder, subset: str, languages: tuple[str, str], dataset_impl, combine: bool = False) -> None:
    """Check what `check_sides` checks, and that fairseq-train can read the format.

    fairseq-train asks for a first batch before any prefetch, and `cached` does not answer then.
    dataset_impl: the training's option, None if fairseq infers it. Raises KDError with the option that helps.
    """
    check_sides(folder, subset, languages, combine)
    for side in itertools.chain.from_iterable(parts_of(folder, subset, languages, combine)):
        if format_of(side) == "cached" and str(dataset_impl) != "lazy":
            raise KDError(
                f"{side}.idx is in the older format of fairseq-preprocess (--dataset-impl lazy or cached), and "
                "fairseq-train cannot read a batch from it by default: give --dataset-impl lazy to fairseq-train"
            )


def check_subset(folder, subset: str, languages: tuple[str, str], combine: bool = False) -> str | None:
    """The --dataset-impl with which fairseq reads sentences of the subset in any order; None if the subset is missing.

    Raises KDError when a file has a format that is not read, when formats are mixed, and as `check_sides` and
    `check_content` do.
    """
    check_content(folder, subset, languages)
    formats = {}
    for part in parts_of(folder, subset, languages, combine):
        formats |= {side: found for side in part if (found := format_of(side)) is not None}
    for side, name in formats.items():
        _check_format(side, name)
    check_sides(folder, subset, languages, combine)
    if len(set(formats.values())) > 1:
        listed = ", ".join(f"{side.name} ({name})" for side, name in formats.items())
        raise KDError(f"{folder} mixes formats of --dataset-impl in {subset!r}: {listed}. Binarise all in one of them")
    return next((READ_BY[name] for name in formats.values()), None)


def load_side(prefix, dictionary):
    """The sentences of one side as a dataset of fairseq. prefix: its path without file ending.

    Raises KDError for a format that is not read.
    """
    from fairseq.data.data_utils import load_indexed_dataset

    return load_indexed_dataset(str(prefix), dictionary, READ_BY[check_format(prefix)])


def check_format(side) -> str:
    """The format of a side. Raises KDError that names the format when it is not read."""
    _check_format(Path(side), name := format_of(Path(side)))
    return name


def sentences(side: Path) -> int:
    """Number of sentences of one side, from its index. Raises KDError when the index is damaged."""
    from fairseq.data.indexed_dataset import IndexedDataset, MMapIndexedDataset, index_file_path

    index = index_file_path(str(side))
    try:
        if format_of(side) == "mmap":
            return len(MMapIndexedDataset.Index(index))
        return len(IndexedDataset(str(side)))
    except (AssertionError, KeyError, ValueError, struct.error) as error:
        raise KDError(f"{index} is cut off or damaged ({error}): binarise the text again") from error


def _candidates(folder: Path, split: str, languages) -> list[Part]:
    source, target = languages
    pairs = (f"{source}-{target}", f"{target}-{source}")
    return [Part(*(folder / f"{split}.{pair}.{lang}" for lang in languages)) for pair in pairs]


def format_of(side: Path) -> str | None:
    """The format as fairseq infers it: "unknown" for an index that it does not know, None if the side is missing."""
    from fairseq.data.indexed_dataset import IndexedDataset, infer_dataset_impl

    return infer_dataset_impl(str(side)) or ("unknown" if IndexedDataset.exists(str(side)) else None)


def _check_format(side: Path, name: str | None) -> None:
    if name in READ_BY:
        return
    if name in REFUSED:
        raise KDError(
            f"{side} {REFUSED[name]}; only data-bins of --dataset-impl mmap (the default), lazy and cached are read. "
            "Binarise the text again without --dataset-impl, with the same dictionaries (--srcdict, --tgtdict)"
        )
    raise KDError(f"{side}.idx is not an index that fairseq-preprocess writes: binarise the text again")


def _unequal(part: Part, counts: list[int]) -> str:
    return (
        f"{part.source.parent} has {counts[0]:,} sentences in {part.source.name} and {counts[1]:,} in "
        f"{part.target.name}: from some sentence on, sources are paired with the targets of other sentences. A likely "
        "cause is a carriage return inside a line, which fairseq-preprocess reads as the end of the line. Remove such "
        "characters from the text and binarise it again (fairseq-kd prepare text does both)"
    )

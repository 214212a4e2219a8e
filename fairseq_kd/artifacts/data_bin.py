"""What a data-bin contains: its languages, the format of each side, and the number of sentences of each side.

The languages of a data-bin. Their codes may hold hyphens and full stops: pt-BR, zh.Hans.

What stands in a data-bin for a subset: the format of each side, and how many sentences each side has.

fairseq-preprocess --dataset-impl NAME writes one of these formats, which fairseq tells apart by the index:

    mmap              the default; what this package writes itself
    lazy, cached      one format (TNTIDX), two ways to read it; `cached` answers only after a prefetch, `lazy` always
    raw               text, not binarised
    fasta, huffman    symbols without the end-of-sentence symbol, or numbered by a vocabulary of their own

The first two are read, the others are refused by name.
"""

import itertools
import os
import struct
from pathlib import Path
from typing import NamedTuple

from fairseq_kd.artifacts.data_bin_check import check_content
from fairseq_kd.artifacts.manifest import read_manifest
from fairseq_kd.core.errors import KDError

Pair = tuple[str, str]


def language_pairs(data_bin) -> list[Pair]:
    """The pairs (source, target) that a data-bin may be for: one as a rule, none where nothing says it.

    Its manifest says it, else the names of its files, those of the training set first. fairseq's own rule cuts
    `train.en-pt-BR.en.bin` at each hyphen and then finds no pair. So the codes come from the dictionaries here
    (`dict.pt-BR.txt`), and fairseq's rule decides only where a dictionary is missing.
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
    """SUBSET.SOURCE-TARGET.LANG, with the ending .bin or .idx or none."""
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


READ_BY = {"mmap": "mmap", "cached": "lazy"}  # format, as fairseq infers it -> dataset_impl that reads it
REFUSED = {
    "raw": "holds text that is not binarised (fairseq-preprocess --dataset-impl raw)",
    "fasta": "is a FASTA file (--dataset-impl fasta), whose letters are its symbols",
    "huffman": "is compressed by a Huffman code (--dataset-impl huffman), whose ids are not those of the dictionary",
}


class Part(NamedTuple):
    """One of train, train1, ...: the paths of its sides, without an ending. The target may be absent."""

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

    Sides of a format that is not read, and such as are not there, are left alone.
    """
    for part in parts_of(folder, subset, languages, combine):
        if all(format_of(side) in READ_BY for side in part):
            counts = [sentences(side) for side in part]
            if counts[0] != counts[1]:
                raise KDError(_unequal(part, counts))


def check_trainable(folder, subset: str, languages: tuple[str, str], dataset_impl, combine: bool = False) -> None:
    """As `check_sides`; fairseq-train asks for a first batch before any prefetch, which `cached` does not answer.

    dataset_impl: of the training, None where fairseq infers it. Raises KDError with the option that helps.
    """
    check_sides(folder, subset, languages, combine)
    for side in itertools.chain.from_iterable(parts_of(folder, subset, languages, combine)):
        if format_of(side) == "cached" and str(dataset_impl) != "lazy":
            raise KDError(
                f"{side}.idx is in the older format of fairseq-preprocess (--dataset-impl lazy or cached), of which "
                "fairseq-train reads no batch by itself: give --dataset-impl lazy to fairseq-train"
            )


def check_subset(folder, subset: str, languages: tuple[str, str], combine: bool = False) -> str | None:
    """The --dataset-impl by which fairseq reads the subset at random places, None where there is no such subset.

    Raises KDError when a file is of a format that is not read, when formats are mixed, and as `check_sides` and
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
    """The sentences of one side, fairseq's dataset; prefix: the path without its ending.

    Raises KDError for a format that is not read.
    """
    from fairseq.data.data_utils import load_indexed_dataset

    return load_indexed_dataset(str(prefix), dictionary, READ_BY[check_format(prefix)])


def check_format(side) -> str:
    """The format of a side. Raises KDError, by name, for one that is not read."""
    _check_format(Path(side), name := format_of(Path(side)))
    return name


def sentences(side: Path) -> int:
    """Number of sentences of one side, by its index. Raises KDError when that is damaged."""
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
    """As fairseq infers it, "unknown" for an index that it does not know, None where nothing is there."""
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
        f"{part.target.name}: from some place on, sources stand beside other sentences' targets. A likely cause is a "
        "carriage return inside a line, which fairseq-preprocess reads as the end of the line. Take such characters "
        "out of the text and binarise it again (fairseq-kd prepare text does both)"
    )

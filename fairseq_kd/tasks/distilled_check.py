"""Is a data-bin the distilled counterpart of another: same dictionaries, same sources, same order?"""

import filecmp
import os
from pathlib import Path

import numpy as np
import torch
from fairseq.data import Dictionary

from fairseq_kd.corpus.fingerprint import data_files
from fairseq_kd.errors import KDError
from fairseq_kd.teacher.dictionaries import first_difference

REMEDY = (
    "Make it from the data-bin's own training sources, every line in order and none dropped, binarised with the "
    "data-bin's dictionaries (fairseq-preprocess --srcdict, --tgtdict)"
)


def check_folder(of_gold, folder, languages) -> None:
    """Raises KDError when `folder` is no data-bin of the languages, or is the gold one itself."""
    if not Path(folder).is_dir():
        raise KDError(f"--distilled {folder} is not there: give a data-bin with the distilled training targets")
    if os.path.samefile(of_gold, folder):
        raise KDError(f"--distilled {folder} is the data-bin of the gold targets itself: give the distilled one")
    for lang in languages:
        if not (Path(folder) / f"dict.{lang}.txt").is_file():
            source, target = languages
            raise KDError(f"--distilled {folder} has no dict.{lang}.txt: it is no data-bin for {source}-{target}")


def check_dictionaries(folder, languages, dictionaries) -> None:
    """Compare the dictionaries (source, target) with those in `folder`. Raises KDError at the first difference."""
    for lang, ours in zip(languages, dictionaries, strict=True):
        distilled = Dictionary.load(str(Path(folder) / f"dict.{lang}.txt"))
        if (found := first_difference(ours, distilled)) is not None:
            index, expected, other = found
            raise KDError(
                f"--distilled {folder} has {len(distilled)} types in dict.{lang}.txt, the data {len(ours)}; the first "
                f"difference is at index {index}: data {expected!r}, distilled {other!r}. The same index must mean "
                f"the same word. {REMEDY}"
            )


def check_pairs(pairs, distilled, folders, split: str, languages) -> None:
    """Compare two loaded subsets, fairseq's LanguagePairDataset each: the sources must be the same, in the same order.

    folders: of the two. Equal files are enough; else every sentence is compared. Raises KDError at the first that
    differs.
    """
    of_gold, folder = folders
    if distilled.tgt is None:
        raise KDError(f"--distilled {folder} has no target side of subset {split!r}. {REMEDY}")
    if len(distilled) != len(pairs):
        raise KDError(
            f"--distilled {folder} has {len(distilled):,} sentences in subset {split!r}, {of_gold} has {len(pairs):,} "
            f"(with --upsample-primary, counted as often as they are used). {REMEDY}"
        )
    if _same_source_files(of_gold, folder, split, languages):
        return
    different = np.flatnonzero(pairs.src_sizes != distilled.src_sizes)
    first = different[0] if len(different) else None
    if first is None:
        sentences = range(len(pairs))
        first = next((i for i in sentences if not torch.equal(pairs.src[i], distilled.src[i])), None)
    if first is not None:
        raise KDError(
            f"the source of sentence {first} of subset {split!r} in --distilled {folder} is not that in {of_gold}: the "
            f"distilled targets would stand beside other sentences. {REMEDY}"
        )


def _same_source_files(of_gold, folder, split, languages) -> bool:
    """Whether the files of the source side are known to be equal. "No" may also mean that fairseq reads others too."""
    names = [
        [name for name in data_files(place, split, *languages) if name.split(".")[-2] == languages[0]]
        for place in (of_gold, folder)
    ]
    if split != "train" or not names[0] or names[0] != names[1]:
        return False
    return all(filecmp.cmp(Path(of_gold) / name, Path(folder) / name, shallow=False) for name in names[0])

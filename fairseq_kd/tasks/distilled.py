"""Sentence pairs with a second, distilled target, and the checks that two data-bins belong together.

They belong together if they have the same dictionaries, the same sources and the same order.
"""

import filecmp
import os
from pathlib import Path

import numpy as np
import torch
from fairseq.data import LanguagePairDataset, data_utils

from fairseq_kd.artifacts.data_bin_check import read_dictionary
from fairseq_kd.artifacts.hashes import data_files, files_of_side
from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.dictionaries import first_difference

REMEDY = (
    "Make it from the data-bin's own training sources, with every line and in the same order, and binarise it with the "
    "data-bin's dictionaries (fairseq-preprocess --srcdict, --tgtdict)"
)


def check_folder(of_gold, folder, languages) -> None:
    """Raises KDError when `folder` is not a data-bin of the languages, or is the gold data-bin itself."""
    if not Path(folder).is_dir():
        raise KDError(f"--distilled {folder} does not exist: give a data-bin with the distilled training targets")
    if os.path.samefile(of_gold, folder):
        raise KDError(
            f"--distilled {folder} is the data-bin of the gold targets: give the data-bin with the distilled targets"
        )
    for lang in languages:
        if not (Path(folder) / f"dict.{lang}.txt").is_file():
            source, target = languages
            raise KDError(f"--distilled {folder} has no dict.{lang}.txt: it is not a data-bin for {source}-{target}")


def check_dictionaries(folder, languages, dictionaries) -> None:
    """Compare the dictionaries (source, target) with `folder`. Raises KDError at the first difference."""
    for lang, ours in zip(languages, dictionaries, strict=True):
        distilled = read_dictionary(Path(folder) / f"dict.{lang}.txt")
        if (found := first_difference(ours, distilled)) is not None:
            index, expected, other = found
            raise KDError(
                f"--distilled {folder} has {len(distilled)} tokens in dict.{lang}.txt, the data {len(ours)}; the first "
                f"difference is at index {index}: data {expected!r}, distilled {other!r}. The same index must mean "
                f"the same token. {REMEDY}"
            )


def check_pairs(pairs, distilled, folders, split: str, languages) -> None:
    """Compare two loaded subsets (LanguagePairDataset): the sources must be the same, in the same order.

    folders: the data-bins of the two. If the source files are equal, the sentences are not compared one by one. Raises
    KDError at the first sentence that differs.
    """
    of_gold, folder = folders
    if distilled.tgt is None:
        raise KDError(f"--distilled {folder} has no target side of subset {split!r}. {REMEDY}")
    if len(distilled) != len(pairs):
        raise KDError(
            f"--distilled {folder} has {len(distilled):,} sentences in subset {split!r}, {of_gold} has {len(pairs):,} "
            f"(with --upsample-primary, each counts as often as it is used). {REMEDY}"
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
            f"the source of sentence {first} of subset {split!r} in --distilled {folder} differs from the source in "
            f"{of_gold}: the distilled targets would belong to other sentences. {REMEDY}"
        )


def _same_source_files(of_gold, folder, split, languages) -> bool:
    """Whether the source files are known to be equal. False can also mean that fairseq reads more files than these."""
    names = [files_of_side(data_files(place, split, *languages), languages[0]) for place in (of_gold, folder)]
    if split != "train" or not names[0] or names[0] != names[1]:
        return False
    return all(filecmp.cmp(Path(of_gold) / name, Path(folder) / name, shallow=False) for name in names[0])


class DistilledPairDataset(LanguagePairDataset):
    """fairseq's pairs of source and gold target, with a distilled target in each batch:

        sample["distilled"] = {"target": (B, T2), "prev_output_tokens": (B, T2), "ntokens": int}

    Row b belongs to the same sentence as row b of sample["target"]. src_sizes, tgt_sizes and the order come from the
    pairs. The longer of the two targets counts for the size of a batch (--max-tokens) and for the sentences that are
    too long (--max-target-positions).
    """

    def __init__(self, pairs: LanguagePairDataset, distilled, distilled_sizes):
        """pairs: as fairseq loaded them; distilled: one target per pair, a tensor of indices."""
        vars(self).update(vars(pairs))  # all options that fairseq set
        self.distilled = distilled
        self.longest = np.maximum(pairs.tgt_sizes, distilled_sizes)
        self.sizes = np.vstack((self.src_sizes, self.longest)).T

    def __getitem__(self, index):
        return super().__getitem__(index) | {"distilled": self.distilled[index]}

    def collater(self, samples, pad_to_length=None):
        """Merge samples into a batch. fairseq sorts it by source length; the distilled rows get the same order."""
        batch = super().collater(samples, pad_to_length)
        if not batch:
            return batch
        targets = {sample["id"]: sample["distilled"] for sample in samples}
        rows = [targets[sentence] for sentence in batch["id"].tolist()]
        length = None if pad_to_length is None else pad_to_length["target"]
        batch["distilled"] = {
            "target": self._pad(rows, length, move_eos_to_beginning=False),
            "prev_output_tokens": self._pad(rows, length, move_eos_to_beginning=True),
            "ntokens": sum(map(len, rows)),
        }
        return batch

    def _pad(self, rows, length, move_eos_to_beginning: bool) -> torch.Tensor:
        return data_utils.collate_tokens(
            rows,
            self.tgt_dict.pad(),
            self.eos,
            self.left_pad_target,
            move_eos_to_beginning,
            pad_to_length=length,
            pad_to_multiple=self.pad_to_multiple,
        )

    def num_tokens(self, index):
        """Tokens of a sentence as --max-tokens counts them: the length of the longest of its three sides."""
        return max(self.src_sizes[index], self.longest[index])

    def num_tokens_vec(self, indices):
        """`num_tokens` of several sentences."""
        return np.maximum(self.src_sizes[indices], self.longest[indices])

    def size(self, index):
        """(source tokens, tokens of the longer target), compared with the model's positions."""
        return self.src_sizes[index], self.longest[index]

    def filter_indices_by_size(self, indices, max_sizes):
        """(indices that fit, list of the others). A sentence is dropped together with both of its targets."""
        return data_utils.filter_paired_dataset_indices_by_size(self.src_sizes, self.longest, indices, max_sizes)

    @property
    def supports_prefetch(self):
        """Whether source and both targets can be prefetched."""
        return super().supports_prefetch and getattr(self.distilled, "supports_prefetch", False)

    def prefetch(self, indices):
        """Read these sentences in advance."""
        super().prefetch(indices)
        self.distilled.prefetch(indices)

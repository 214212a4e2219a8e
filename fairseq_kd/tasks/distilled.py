"""Sentence pairs with a second target."""

import numpy as np
import torch
from fairseq.data import LanguagePairDataset, data_utils


class DistilledPairDataset(LanguagePairDataset):
    """fairseq's pairs of source and gold target; batches also hold

        sample["distilled"] = {"target": (B, T2), "prev_output_tokens": (B, T2), "ntokens": int}

    whose row b is of the same sentence as row b of sample["target"]. src_sizes, tgt_sizes and the order are those of
    the pairs. What bounds a batch (--max-tokens) and drops a sentence (--max-target-positions) is the longer target.
    """

    def __init__(self, pairs: LanguagePairDataset, distilled, distilled_sizes):
        """pairs: as fairseq loaded them; distilled: as many targets, each a tensor of indices."""
        vars(self).update(vars(pairs))  # every option that fairseq has given them
        self.distilled = distilled
        self.longest = np.maximum(pairs.tgt_sizes, distilled_sizes)
        self.sizes = np.vstack((self.src_sizes, self.longest)).T

    def __getitem__(self, index):
        return super().__getitem__(index) | {"distilled": self.distilled[index]}

    def collater(self, samples, pad_to_length=None):
        """Merge samples into a batch; fairseq orders it by source length, and the distilled rows follow it."""
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
        """Tokens of a sentence as --max-tokens counts them: of the longest of its three sides."""
        return max(self.src_sizes[index], self.longest[index])

    def num_tokens_vec(self, indices):
        """`num_tokens` of several sentences."""
        return np.maximum(self.src_sizes[indices], self.longest[indices])

    def size(self, index):
        """(source tokens, tokens of the longer target), compared with the model's positions."""
        return self.src_sizes[index], self.longest[index]

    def filter_indices_by_size(self, indices, max_sizes):
        """(indices that fit, list of those that do not): a sentence is dropped with both of its targets."""
        return data_utils.filter_paired_dataset_indices_by_size(self.src_sizes, self.longest, indices, max_sizes)

    @property
    def supports_prefetch(self):
        """Whether source and both targets can be read ahead."""
        return super().supports_prefetch and getattr(self.distilled, "supports_prefetch", False)

    def prefetch(self, indices):
        """Read ahead."""
        super().prefetch(indices)
        self.distilled.prefetch(indices)

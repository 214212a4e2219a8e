"""A subset as batches of gold prefixes: what training and validation see, without a search."""

from collections.abc import Iterator

import numpy as np
import torch

from fairseq_kd.progress import Progress
from fairseq_kd.teacher.batches import collate, length_sorted

MAX_TOKENS = 4000  # of a batch, source or target


def gold_batches(
    dataset, pad: int, device: torch.device, label: str, max_tokens: int | None = None
) -> Iterator[tuple[dict, torch.Tensor]]:
    """(fairseq batch, keep (B, T): where its target is not padding) until every sentence was there once.

    label: of the progress on standard error. max_tokens: of a batch, with padding; None: MAX_TOKENS.
    """
    lengths = np.maximum(dataset.src_sizes, dataset.tgt_sizes)
    progress = Progress(label, len(dataset), "sentences")
    for numbers in length_sorted(np.arange(len(dataset)), lengths, max_tokens or MAX_TOKENS):
        sample = collate(dataset, numbers, device)
        yield sample, sample["target"].ne(pad)
        progress.advance(len(numbers))
    progress.finish()

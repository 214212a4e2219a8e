"""A subset as batches of gold prefixes: what training and validation see, without a search."""

from collections.abc import Iterator

import numpy as np
import torch

from fairseq_kd.errors import KDError
from fairseq_kd.progress import Progress
from fairseq_kd.teacher.batches import collate, length_sorted

MAX_TOKENS = 4000  # of a batch, source or target


def gold_batches(dataset, pad: int, device: torch.device, label: str) -> Iterator[tuple[dict, torch.Tensor]]:
    """(fairseq batch, keep (B, T): where its target is not padding) until every sentence was there once.

    label: of the progress on standard error.
    """
    lengths = np.maximum(dataset.src_sizes, dataset.tgt_sizes)
    progress = Progress(label, len(dataset), "sentences")
    for numbers in length_sorted(np.arange(len(dataset)), lengths, MAX_TOKENS):
        sample = collate(dataset, numbers, device)
        yield sample, sample["target"].ne(pad)
        progress.advance(len(numbers))
    progress.finish()


def check_target(dataset, limit: int, subset: str, path) -> None:
    """Raises KDError when the subset has no target, or one of more tokens than a model has positions for."""
    if dataset.tgt is None:
        raise KDError(f"subset {subset!r} has no target side, so there are no gold prefixes to look at")
    longest = int(np.max(dataset.tgt_sizes))
    if longest > limit:
        raise KDError(
            f"a target sentence of {subset!r} has {longest} tokens, {path} has positions for {limit}; leaving it out "
            "would change the figures"
        )

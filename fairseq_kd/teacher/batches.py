"""Batches of chosen sentences, outside of a training."""

from collections.abc import Iterator

import numpy as np
import torch

from fairseq_kd.errors import KDError


def length_sorted(sentences: np.ndarray, lengths: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    """Batches by falling length (ties by number), of at most max_tokens with padding.

    sentences: numbers; lengths: of all sentences. A sentence that is longer than max_tokens is a batch by itself.
    """
    longest = lengths[sentences]
    order = sentences[np.argsort(-longest, kind="stable")]
    start = 0
    while start < len(order):
        count = max(1, max_tokens // int(lengths[order[start]]))
        yield order[start : start + count]
        start += count


def collate(dataset, sentences: np.ndarray, device: torch.device) -> dict:
    """A fairseq batch on `device`. Its rows are in an order of their own: sample["id"] (B,) says which."""
    from fairseq import utils

    sample = dataset.collater([dataset[int(i)] for i in sentences])
    return utils.move_to_cuda(sample, device) if device.type == "cuda" else sample


def check_longest(lengths: np.ndarray, max_tokens: int) -> None:
    """Raises KDError when a sentence does not fit in a batch."""
    if (longest := int(lengths.max(initial=0))) > max_tokens:
        raise KDError(f"--max-tokens {max_tokens}: the longest sentence has {longest} tokens; give at least that")


def check_positions(src_sizes: np.ndarray, tgt_sizes: np.ndarray, limits: tuple[int, int], who="the teacher") -> None:
    """Raises KDError when a sentence is longer than the positions of a model; limits: of (encoder, decoder)."""
    for side, sizes, limit in zip(("source", "target"), (src_sizes, tgt_sizes), limits, strict=True):
        if len(too_long := np.flatnonzero(np.asarray(sizes) > limit)):
            raise KDError(
                f"sentence {too_long[0]} has {sizes[too_long[0]]} {side} tokens, {who} has positions for "
                f"{limit} ({len(too_long):,} sentences are too long): leave them out of the data-bin"
            )

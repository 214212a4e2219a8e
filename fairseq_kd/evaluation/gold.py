"""A subset as batches of gold prefixes: what training and validation see, without a search.

How probable a model finds the references: the loss that training reports on a validation set, of any checkpoint.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.progress import Progress
from fairseq_kd.inference.opening import check_longest, check_positions, collate, length_sorted, load_pair
from fairseq_kd.loss.signal import ROWS_AT_A_TIME

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


def nll_of_checkpoint(
    data_bin, checkpoint, subset: str, *, max_tokens: int, device: torch.device, trust: bool = False
) -> tuple[float, int]:
    """(mean of -log2 p(token | source, gold prefix) over the target tokens of `subset`, their number).

    Bits a token, EOS included, without label smoothing, in float32: what fairseq logs as nll_loss. The dictionaries are
    those of `data_bin`; max_tokens: of a batch, with padding.
    Raises KDError for a checkpoint or data-bin that cannot be used, and when the loss is not finite.
    """
    model, task = load_pair(data_bin, checkpoint, subset, data=data_bin, trust=trust)
    dataset = task.dataset(subset)
    check_positions(dataset.src_sizes, dataset.tgt_sizes, model.model.max_positions())
    check_longest(np.maximum(dataset.src_sizes, dataset.tgt_sizes), max_tokens)
    nats, tokens = 0.0, 0
    for sample, keep in gold_batches(dataset, task.target_dictionary.pad(), device, "loss", max_tokens):
        gold = sample["target"][keep]  # (N,)
        signal = model.signal(sample, keep)
        for start in range(0, len(gold), ROWS_AT_A_TIME):
            rows = signal.rows(start, start + ROWS_AT_A_TIME)  # (n, V)
            lprobs = rows.gather(1, gold[start : start + ROWS_AT_A_TIME].unsqueeze(1))
            nats -= lprobs.sum(dtype=torch.float64).item()
        tokens += len(gold)
    if not math.isfinite(nats):
        raise KDError(
            f"the loss of {checkpoint} on {subset!r} is not finite: its training diverged, or it holds weights that "
            "are no numbers. Move it out of the folder"
        )
    return nats / tokens / math.log(2), tokens

"""How probable a model finds the references: the loss that training reports on a validation set, of any checkpoint."""

import math

import numpy as np
import torch

from fairseq_kd.errors import KDError
from fairseq_kd.evaluation.gold import gold_batches
from fairseq_kd.teacher.batches import check_longest, check_positions
from fairseq_kd.teacher.opening import load_pair
from fairseq_kd.teacher.signal import ROWS_AT_A_TIME


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

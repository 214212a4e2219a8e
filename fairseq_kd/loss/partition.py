"""A choice between two distributions for each token: data-partitioning KD."""

import torch

from fairseq_kd.loss.signal import DenseSignal, TopKSignal
from fairseq_kd.loss.weights import SENTENCE, per_sentence


def prefers_first(values: torch.Tensor, keep: torch.Tensor, per: str) -> torch.Tensor:
    """Whether the first of two values (N, 2) is at least as large as the second, (N,) bool.

    per: TOKEN, or SENTENCE: by the means over the tokens of each sentence. keep (B, T): where the N tokens are.
    """
    compared = per_sentence(values, keep) if per == SENTENCE else values
    return compared[:, 0] >= compared[:, 1]


def chosen(is_first: torch.Tensor, first, second) -> TopKSignal | DenseSignal:
    """The signal with the row of `first` where is_first (N,) is true, and the row of `second` elsewhere.

    Both are a `TopKSignal` with the same k, and shapes in both or in neither; or a `DenseSignal` of log-probabilities.
    Both have the same temperature.
    """

    def rows(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return torch.where(is_first.view(-1, *(1,) * (one.dim() - 1)), one, other)

    if isinstance(first, DenseSignal):
        return DenseSignal(rows(first.features, second.features), None, first.temperature)
    shapes = shape_ids = None
    if first.shapes is not None:
        shapes = torch.cat([first.shapes, second.shapes])  # (G1 + G2, V)
        shape_ids = rows(first.shape_ids, second.shape_ids + len(first.shapes))
    named = (rows(getattr(first, name), getattr(second, name)) for name in ("ids", "lprobs", "tail"))
    return TopKSignal(*named, shapes, shape_ids)

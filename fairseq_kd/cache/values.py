"""The stored values of target tokens: computed from a teacher's distributions, and the distributions rebuilt from them.

`cache.format` defines the values.
"""

from dataclasses import dataclass

import numpy as np
import torch

from fairseq_kd.cache.format import CacheFormat
from fairseq_kd.cache.tail_shapes import affinity
from fairseq_kd.loss.rows import bucket, temper
from fairseq_kd.loss.signal import SMALLEST_TAIL

LARGEST_DELTA = 60000.0  # nats; the largest float16 is 65504. In float32 the probability is 0 in both cases


@dataclass(frozen=True)
class Rows:
    """The stored values of n tokens: ids and delta (n, k), tail (n, temperatures), and (n, 1) each shape_ids and gold.

    shape_ids: in a cache with tail shapes. gold: since format 3.
    """

    ids: np.ndarray
    delta: np.ndarray
    tail: np.ndarray
    shape_ids: np.ndarray | None = None
    gold: np.ndarray | None = None


def encode(lprobs: torch.Tensor, cache_format: CacheFormat, root_shapes=None, gold=None) -> Rows:
    """The values to store, as `encoded`, on the host."""
    values = encoded(lprobs, cache_format, root_shapes, gold)
    return named([tensor.cpu().numpy() for tensor in values], cache_format)


def named(values: list[np.ndarray], cache_format: CacheFormat) -> Rows:
    """The rows of a list of values in the order of the arrays of the format."""
    return Rows(**dict(zip(cache_format.token_arrays(), values, strict=True)))


def encoded(
    lprobs,
    cache_format: CacheFormat,
    root_shapes: torch.Tensor | None = None,
    gold: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """The values for teacher log-probabilities (n, V) at temperature 1, before rounding to the stored dtypes.

    They are in the order of the arrays of the format (`named`).
    root_shapes (G, V): square roots of the tail shapes at temperature 1, if the format has shapes. gold (n,): the gold
    tokens, if the format has their log-probability.
    The tail at T is the sum over the entries that are left out, so that a small tail keeps its precision.
    """
    top, ids = lprobs.topk(cache_format.k, dim=-1)  # (n, k)
    delta = (top[:, :1] - top).clamp(max=LARGEST_DELTA)
    tails = []
    for temperature in cache_format.temperatures:
        if cache_format.is_dense:
            tails.append(torch.full_like(top[:, 0], float("-inf")))
            continue
        tails.append(bucket(temper(lprobs, temperature), ids)[:, -1].clamp(min=SMALLEST_TAIL))
    rows = [ids, delta, torch.stack(tails, dim=-1)]
    if cache_format.tail_shapes:
        rows.append(affinity(lprobs, ids, root_shapes).argmax(dim=-1, keepdim=True))  # (n, 1)
    if cache_format.gold:
        rows.append(_finite(lprobs.gather(1, gold.unsqueeze(1))))
    return rows


def _finite(lprobs: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of gold tokens. A gold token that the teacher excludes has a finite value too."""
    return lprobs.clamp(min=-LARGEST_DELTA)


def encoded_logits(
    logits,
    cache_format: CacheFormat,
    root_shapes: torch.Tensor | None = None,
    gold: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """As `encoded`, from logits (n, V) and k < V, with half as many passes over the vocabulary.

    The results differ from those of `encoded` by float32 rounding, which is far below that of logits in bfloat16.
    """
    top, ids = _largest(logits, cache_format.k)  # (n, k)
    delta, below = (top[:, :1] - top).clamp(max=LARGEST_DELTA), logits - top[:, :1]
    root = torch.mul(below, 0.5).exp_().scatter_(-1, ids, 0)  # square roots of the tail, up to a factor per row
    at_one = torch.linalg.vector_norm(root, dim=-1).square()
    tails = []
    for temperature in cache_format.temperatures:
        outside = at_one
        if temperature != 1:
            outside = torch.div(below, temperature).exp_().scatter_(-1, ids, 0).sum(dim=-1)
        inside = torch.div(delta, -temperature).exp_().sum(dim=-1)
        tails.append((outside / (inside + outside)).log_().clamp_(min=SMALLEST_TAIL))
    rows = [ids, delta, torch.stack(tails, dim=-1)]
    if cache_format.tail_shapes:
        rows.append((root.to(root_shapes.dtype) @ root_shapes.t()).argmax(dim=-1, keepdim=True))  # (n, 1)
    if cache_format.gold:
        total = (at_one + torch.exp(-delta).sum(dim=-1)).log_().unsqueeze(1)
        rows.append(_finite(below.gather(1, gold.unsqueeze(1)) - total))
    return rows


def _largest(values: torch.Tensor, k: int, group: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """As values.topk(k), but equal values can come in another order; on a CPU in about half of the time.

    The k largest of a row (n, V) are in the k groups of columns with the largest maxima, or in the last columns, which
    are in no group. Group g of w has the columns g, g + w, g + 2w, ...
    """
    width = values.size(1) // group
    if width < 4 * k:
        return values.topk(k, dim=-1)
    groups = (
        values[:, : width * group].unflatten(1, (group, width)).amax(dim=1).topk(k, dim=-1, sorted=False).indices
    )  # (n, k)
    members = groups.unsqueeze(1) + width * torch.arange(group, device=values.device).unsqueeze(1)  # (n, group, k)
    last = torch.arange(width * group, values.size(1), device=values.device).expand(len(values), -1)
    columns = torch.cat([members.flatten(1), last], dim=1)
    top, places = values.gather(1, columns).topk(k, dim=-1)
    return top, columns.gather(1, places)


def rebuild(delta: torch.Tensor, tail: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(lprobs (n, k), tail (n,)) at `temperature`, float32, from the stored delta (n, k) and its tail (n,).

    p_K = (1 - tail) · softmax(-delta / T), in log space. A tail of -inf (k = V) does not change.
    """
    delta, tail = delta.float(), tail.float()
    inside = torch.log(-torch.expm1(tail))  # ln(1 - e^tail); expm1 keeps the digits of a tail near 1
    lprobs = torch.log_softmax(delta / -temperature, dim=-1) + inside.unsqueeze(-1)
    return lprobs, torch.where(tail.isinf(), tail, tail.clamp(min=SMALLEST_TAIL))

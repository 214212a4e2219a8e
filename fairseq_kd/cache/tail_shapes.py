"""Tail shapes: G distributions that describe how a teacher's mass outside of its k stored entries is distributed.

The shapes M_g, over all V entries, are fitted to a sample of tails. The fit is spherical k-means over the square roots
of the tails at temperature 1: a tail goes to the shape with the largest Bhattacharyya coefficient,
Σ_v sqrt(tail_v · M_v). A shape at temperature T is the mean of its tails at T, weighted by their masses at T. This mean
is the single distribution with the least KL from these tails. A small share of the uniform distribution keeps every
log-probability finite.
"""

from collections.abc import Iterable

import numpy as np
import torch

from fairseq_kd.loss.rows import bucket, temper

LARGEST_SAMPLE = 20_000  # target tokens
LARGEST_SAMPLE_VALUES = 1 << 28  # tokens times vocabulary, two bytes each: 512 MiB
ROUNDS = 8
UNIFORM = 1e-3
TINY = 1e-30


def sample_sentences(sizes: np.ndarray, types: int) -> np.ndarray:
    """Numbers of evenly spaced sentences with about as many tokens as `fit` needs. sizes: tokens of each sentence."""
    return evenly_spaced(sizes, min(LARGEST_SAMPLE, max(1, LARGEST_SAMPLE_VALUES // types)))


def evenly_spaced(sizes: np.ndarray, tokens: int) -> np.ndarray:
    """Numbers of evenly spaced sentences with about `tokens` tokens; all sentences if they have fewer."""
    count = min(len(sizes), -(-tokens * len(sizes) // int(sizes.sum())))
    return np.linspace(0, len(sizes) - 1, count).round().astype(np.int64)


def root_tail(lprobs: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Square roots of the probabilities (n, V) of the entries outside of ids (n, k); 0 for the entries `ids`."""
    return lprobs.scatter(-1, ids, float("-inf")).mul_(0.5).exp_()


def affinity(lprobs: torch.Tensor, ids: torch.Tensor, root_shapes: torch.Tensor) -> torch.Tensor:
    """Σ_v sqrt(tail_v · M_v) for each token and shape, (n, G).

    lprobs (n, V) at temperature 1; ids (n, k), the entries outside of the tail; root_shapes (G, V): sqrt(M).
    """
    return root_tail(lprobs.float(), ids) @ root_shapes.t()


def fit(sample: Iterable[torch.Tensor], k: int, temperatures: tuple[float, ...], count: int) -> torch.Tensor:
    """Log-probabilities (temperatures, count, V), float32, of the shapes at each temperature.

    sample: the teacher's log-probabilities at temperature 1, in parts (n, V). temperatures: must include 1.
    Deterministic. A shape without any tail is the mean of all tails.
    """
    parts = []  # (square roots of the tails (n, V), float16, norm 1; masses of the tails (temperatures, n))
    for lprobs in sample:
        lprobs, ids = lprobs.float(), lprobs.topk(k, dim=-1).indices
        root = root_tail(lprobs, ids)
        masses = torch.stack([bucket(temper(lprobs, t), ids)[:, -1].exp() for t in temperatures])
        parts.append(((root / root.norm(dim=-1, keepdim=True).clamp(min=TINY)).half(), masses))
    rows = [row for root, _ in parts for row in root]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    centres = torch.stack([rows[order[i % len(rows)]] for i in range(count)]).float()
    at_one = temperatures.index(1.0)
    for _ in range(ROUNDS):
        centres = _means(parts, centres, at_one, 1.0).sqrt()
    means = torch.stack([_means(parts, centres, at, t) for at, t in enumerate(temperatures)])
    shapes = (1 - UNIFORM) * means + UNIFORM / means.size(-1)
    return (shapes / shapes.sum(dim=-1, keepdim=True)).log()


def _means(parts, centres: torch.Tensor, at: int, temperature: float) -> torch.Tensor:
    """Mean at `temperature` of the tails nearest to each of the centres (G, V), weighted by masses[at]; (G, V).

    Each row sums to 1, or to 0 if no tail has any mass.
    """
    sums = torch.zeros_like(centres)
    for root, masses in parts:
        group = (root.float() @ centres.t()).argmax(dim=-1, keepdim=True)  # (n, 1)
        tails = root.float().pow(2 / temperature)
        tails /= tails.sum(dim=-1, keepdim=True).clamp(min=TINY)
        # a matrix product adds in a fixed order, also on CUDA
        weights = centres.new_zeros(len(root), len(centres)).scatter_(1, group, masses[at].unsqueeze(1))
        sums += weights.t() @ tails
    sums = torch.where(sums.sum(dim=-1, keepdim=True) > 0, sums, sums.sum(dim=0))
    return sums / sums.sum(dim=-1, keepdim=True).clamp(min=TINY)

"""What a teacher says about the target tokens of a batch, as plain tensors.

The criterion asks a `SignalSource` (a network, `online`; a cache on disk, `cached`) for the signal of a batch and does
not know which of them answers. A signal has one row for each of the N target tokens that count: the positions where
`keep` (B, T) is true, in row-major order.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch

from fairseq_kd.loss.divergence import bucket, temper

ROWS_AT_A_TIME = 512  # rows of V log-probabilities that exist at once where a signal is walked through
SMALLEST_TAIL = -16.0  # nats, about 1e-7: what float32 can tell from nothing beside 1
# A tail shape's own mass outside of the k types is at least 1e-3 (V - k) / V (`teacher.tail_shapes`), so this bounds it
# only where k > 0.9 V: there float32 could not tell it from nothing, and the tail gets less than its mass.
SMALLEST_OUTSIDE = 1e-4


@dataclass(frozen=True)
class DenseSignal:
    """The teacher's whole distribution, projected from its features when it is asked for, a few rows at a time.

    features (N, d) and projection (V, d), or features = log-probabilities (N, V) at temperature 1 and projection None.
    """

    features: torch.Tensor
    projection: torch.Tensor | None
    temperature: float = 1.0

    def __len__(self) -> int:
        return self.features.size(0)

    def rows(self, start: int = 0, end: int | None = None, out: torch.Tensor | None = None) -> torch.Tensor:
        """Log-probabilities (n, V), float32 or wider, at the temperature, of the rows from start to before end.

        out: a tensor (n, V) of that type to use, if one is to be made. Not to be changed without it.
        """
        rows = self.features[start:end]
        if self.projection is None:
            return temper(rows, self.temperature)
        with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):
            if out is not None and out.dtype == rows.dtype:
                logits = torch.mm(rows, self.projection.t(), out=out)
            else:
                logits = rows @ self.projection.t()
                logits = logits if logits.dtype == torch.float64 else logits.float()
            logits = logits if self.temperature == 1 else logits.div_(self.temperature)
            return torch.log_softmax(logits, dim=-1, out=logits)

    def part(self, start: int, end: int) -> "DenseSignal":
        """The rows from start to before end."""
        return DenseSignal(self.features[start:end], self.projection, self.temperature)

    def truncate(self, k: int) -> "TopKSignal":
        """The k most probable types of each row and the mass of the others."""
        starts = range(0, max(len(self), 1), ROWS_AT_A_TIME)
        parts = [top_k(self.rows(start, start + ROWS_AT_A_TIME), k) for start in starts]
        return TopKSignal(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


@dataclass(frozen=True)
class TopKSignal:
    """The k most probable types of each token, and what is left for all others together.

    ids (N, k) int64, by falling probability; lprobs (N, k) at the temperature asked for; tail (N,), the log of the
    remaining probability, at least SMALLEST_TAIL.
    shapes (G, V) and shape_ids (N,) int64, or None: log-probabilities of G distributions that all tokens share, and
    which of them says how the tail of each token is distributed over the types that are not named.
    """

    ids: torch.Tensor
    lprobs: torch.Tensor
    tail: torch.Tensor
    shapes: torch.Tensor | None = None
    shape_ids: torch.Tensor | None = None

    def __len__(self) -> int:
        return self.ids.size(0)

    def part(self, start: int, end: int) -> "TopKSignal":
        """The rows from start to before end."""
        shape_ids = None if self.shape_ids is None else self.shape_ids[start:end]
        return TopKSignal(self.ids[start:end], self.lprobs[start:end], self.tail[start:end], self.shapes, shape_ids)

    def buckets(self) -> torch.Tensor:
        """Log-probabilities (N, k + 1) of the k types and of the tail, which is the last column."""
        return torch.cat([self.lprobs, self.tail.unsqueeze(-1)], dim=-1)

    def rows(self) -> torch.Tensor:
        """Log-probabilities (N, V): the named types as they are, the tail distributed over all others by its shape."""
        shape = self.shapes[self.shape_ids].to(self.lprobs.dtype)  # (N, V)
        outside = shape.scatter(-1, self.ids, float("-inf")).logsumexp(dim=-1)  # the shape's mass on the others, log
        scale = self.tail - outside.clamp(min=math.log(SMALLEST_OUTSIDE))
        return (shape + scale.unsqueeze(-1)).scatter(-1, self.ids, self.lprobs)


def top_k(lprobs: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(ids, lprobs, tail) as in TopKSignal from log-probabilities (N, V), k < V.

    The tail is summed from the types that are left out, not as 1 minus those that are kept.
    """
    ids = lprobs.topk(k, dim=-1).indices
    outcomes = bucket(lprobs, ids)
    return ids, outcomes[:, :-1], outcomes[:, -1].clamp(min=SMALLEST_TAIL)


class SignalSource(Protocol):
    """Answers for one batch at a time."""

    def signal(self, sample, keep: torch.Tensor, temperature: float) -> DenseSignal | TopKSignal:
        """The teacher's signal at `temperature` for the N positions of a fairseq batch where `keep` (B, T) is true."""

"""The teacher's distributions for the target tokens of a batch, as plain tensors.

The criterion asks a `SignalSource` (`teacher.online`, a network, or `teacher.cached`, a cache on disk) for the signal
of a batch and does not know which of them answers. A signal has one row for each of the N target tokens that count: the
positions where `keep` (B, T) is true, in row-major order.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from fairseq_kd.loss.products import multiply, narrowed, pads
from fairseq_kd.loss.rows import bucket, temper

ROWS_AT_A_TIME = 512  # on a CPU more rows do not make the products faster, and a part is small (20 MiB at V = 10k)
CUDA_ENTRIES = 2**26  # logits at a time: with fewer, launching the kernels takes longer than running them
SMALLEST_TAIL = -16.0  # nats, a probability of about 1e-7: the least that changes a sum near 1 in float32
# A tail shape's own mass outside of the k entries is at least 1e-3 (V - k) / V (`cache.tail_shapes`). So this bound
# acts only where k > 0.9 V: there float32 could not tell the mass from 0, and the tail gets less than its mass.
SMALLEST_OUTSIDE = 1e-4


def rows_at_a_time(device: torch.device, vocabulary: int) -> int:
    """How many rows of V logits or log-probabilities are computed at a time."""
    if device.type != "cuda":
        return ROWS_AT_A_TIME
    return max(ROWS_AT_A_TIME, round(CUDA_ENTRIES / vocabulary / 128) * 128)


class WholeSignal:
    """A signal that gives the whole distribution of each row on demand, a few rows at a time.

    A subclass has `__len__`, `device`, `vocabulary`, `may_exclude`, `rows`, `logits` and `part`, as `DenseSignal` does.
    """

    def most_probable(self) -> torch.Tensor:
        """The most probable entry of each row, (N,)."""
        return self.rows().argmax(dim=-1)

    def truncate(self, k: int) -> "TopKSignal":
        """The k most probable entries of each row and the mass of the others."""
        step = rows_at_a_time(self.device, self.vocabulary)
        parts = [top_k(self.rows(start, start + step), k) for start in range(0, max(len(self), 1), step)]
        return TopKSignal(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


@dataclass(frozen=True)
class DenseSignal(WholeSignal):
    """The teacher's whole distribution, computed from its features.

    features (N, d) and projection (V, d), or features = log-probabilities (N, V) at temperature 1 and projection None.
    """

    features: torch.Tensor
    projection: torch.Tensor | None
    temperature: float = 1.0

    def __len__(self) -> int:
        return self.features.size(0)

    @property
    def device(self) -> torch.device:
        """The device of the rows."""
        return self.features.device

    @property
    def may_exclude(self) -> bool:
        """Whether a log-probability can be -inf: given ones can, computed ones cannot."""
        return self.projection is None

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.features.size(1) if self.projection is None else self.projection.size(0)

    def rows(self, start: int = 0, end: int | None = None, out: torch.Tensor | None = None) -> torch.Tensor:
        """Log-probabilities (n, V), float32 or wider, at the temperature, of the rows from start to before end.

        out: a tensor (n, V) that may hold the result. Without it the caller must not change the result, which can be a
        view of `features`.
        """
        if self.projection is None:
            return temper(self.features[start:end], self.temperature)
        logits = self.logits(start, end, out)
        return torch.log_softmax(logits, dim=-1, out=logits)

    def logits(self, start: int = 0, end: int | None = None, out: torch.Tensor | None = None) -> torch.Tensor:
        """As `rows`, but logits where there is a projection: each row can differ by a constant."""
        rows = self.features[start:end]
        if self.projection is None:
            return self.rows(start, end)
        with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):
            wide = torch.promote_types(rows.dtype, torch.float32)
            if out is None or out.dtype != wide:
                out = torch.empty(len(rows), len(self.projection), dtype=wide, device=rows.device)
            # with rows of zeros on a CPU in bfloat16: the last rows of each batch would be a new shape for oneDNN
            logits = multiply(narrowed(rows) if pads(rows) else rows, self.projection.t(), out)
            return logits if self.temperature == 1 else logits.div_(self.temperature)

    def part(self, start: int, end: int) -> "DenseSignal":
        """The rows from start to before end."""
        return DenseSignal(self.features[start:end], self.projection, self.temperature)

    def select(self, rows: torch.Tensor) -> "DenseSignal":
        """The rows with these numbers, (n,) int64."""
        return DenseSignal(self.features.index_select(0, rows), self.projection, self.temperature)


@dataclass(frozen=True)
class TopKSignal:
    """The k most probable vocabulary entries for each token, and the remaining probability of all others together.

    ids (N, k) int64, by falling probability; lprobs (N, k) at the requested temperature; tail (N,), the log of the
    remaining probability, at least SMALLEST_TAIL.
    shapes (G, V) and shape_ids (N,) int64, or None: log-probabilities of G distributions that all tokens share, and the
    number of the shape that distributes the tail of each token over the entries that are not named.
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

    def select(self, rows: torch.Tensor) -> "TopKSignal":
        """The rows with these numbers, (n,) int64."""
        shape_ids = None if self.shape_ids is None else self.shape_ids[rows]
        return TopKSignal(self.ids[rows], self.lprobs[rows], self.tail[rows], self.shapes, shape_ids)

    def most_probable(self) -> torch.Tensor:
        """The most probable entry of each token, (N,)."""
        return self.ids[:, 0]

    def buckets(self) -> torch.Tensor:
        """Log-probabilities (N, k + 1) of the k entries and, in the last column, of the tail."""
        return torch.cat([self.lprobs, self.tail.unsqueeze(-1)], dim=-1)

    def rows(self) -> torch.Tensor:
        """Log-probabilities (N, V): of the named entries, and the tail distributed over all others by its shape."""
        shape = self.shapes[self.shape_ids].to(self.lprobs.dtype)  # (N, V)
        outside = shape.scatter(-1, self.ids, float("-inf")).logsumexp(dim=-1)  # the shape's mass on the others, log
        scale = self.tail - outside.clamp(min=math.log(SMALLEST_OUTSIDE))
        return (shape + scale.unsqueeze(-1)).scatter(-1, self.ids, self.lprobs)


def top_k(lprobs: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(ids, lprobs, tail) as in TopKSignal from log-probabilities (N, V), k < V.

    The tail is the sum over the entries that are left out, not 1 minus the sum over the kept ones.
    """
    ids = lprobs.topk(k, dim=-1).indices
    outcomes = bucket(lprobs, ids)
    return ids, outcomes[:, :-1], outcomes[:, -1].clamp(min=SMALLEST_TAIL)


class SignalSource(Protocol):
    """Answers for one batch at a time."""

    def request(self, sample, keep: torch.Tensor, temperature: float) -> Callable[[], DenseSignal | TopKSignal]:
        """A function that returns the signal at `temperature` for a fairseq batch, where `keep` (B, T) is true.

        Called before the student runs; the function it returns is called after the student was launched.
        """

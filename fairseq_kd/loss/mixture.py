"""The mixture of several teachers: p = Σ_k w_k p_k, computed in log space from their features, a few rows at a time.

The distributions are mixed at temperature 1, and the temperature is applied to ln p. So a cache can hold the mixture as
it holds one teacher. `weights` computes the weights.
"""

import math
from dataclasses import dataclass, field

import torch

from fairseq_kd.loss.signal import DenseSignal, WholeSignal, rows_at_a_time


@dataclass(frozen=True)
class MixtureSignal(WholeSignal):
    """The distribution Σ_k w_k p_k of N tokens, at a temperature. It is used as a `DenseSignal`.

    parts: the K distributions p_k at temperature 1, with the same N and V. log_weights: ln w_k, (K,) for all tokens or
    (N, K) per token; a weight of 0 is -inf. The weights of a token add up to 1.
    """

    parts: tuple[DenseSignal, ...]
    log_weights: torch.Tensor
    temperature: float = 1.0
    _scratch: dict = field(default_factory=dict, repr=False, compare=False)  # buffers (n, V), kept for the next rows

    def __post_init__(self):
        sizes = {(len(part), part.vocabulary) for part in self.parts}
        assert len(sizes) == 1, f"the parts of a mixture have different sizes: {sizes}"
        assert all(part.temperature == 1 for part in self.parts), "the parts of a mixture have temperature 1"
        expected = {(len(self.parts),), (len(self), len(self.parts))}
        assert tuple(self.log_weights.shape) in expected, f"weights {tuple(self.log_weights.shape)} for {expected}"

    def __len__(self) -> int:
        return len(self.parts[0])

    @property
    def device(self) -> torch.device:
        """The device of the rows."""
        return self.parts[0].device

    @property
    def may_exclude(self) -> bool:
        """Whether a log-probability can be -inf."""
        return any(part.may_exclude for part in self.parts)

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.parts[0].vocabulary

    @torch.no_grad()
    def rows(self, start: int = 0, end: int | None = None, out: torch.Tensor | None = None) -> torch.Tensor:
        """Log-probabilities (n, V), float32 or wider, at the temperature, of the rows from start to before end.

        out: a tensor (n, V) that may hold the result.
        """
        mixed = self._mixed(start, end, out)
        return mixed if self.temperature == 1 else torch.log_softmax(mixed.div_(self.temperature), dim=-1, out=mixed)

    @torch.no_grad()
    def logits(self, start: int = 0, end: int | None = None, out: torch.Tensor | None = None) -> torch.Tensor:
        """As `rows`, but each row can differ by a constant."""
        mixed = self._mixed(start, end, out)
        return mixed if self.temperature == 1 else mixed.div_(self.temperature)

    def part(self, start: int, end: int) -> "MixtureSignal":
        """The rows from start to before end."""
        weights = self.log_weights if self.log_weights.dim() == 1 else self.log_weights[start:end]
        parts = tuple(part.part(start, end) for part in self.parts)
        return MixtureSignal(parts, weights, self.temperature, self._scratch)

    def select(self, rows: torch.Tensor) -> "MixtureSignal":
        """The rows with these numbers, (n,) int64."""
        weights = self.log_weights if self.log_weights.dim() == 1 else self.log_weights.index_select(0, rows)
        return MixtureSignal(tuple(part.select(rows) for part in self.parts), weights, self.temperature, self._scratch)

    def _mixed(self, start: int, end: int | None, out: torch.Tensor | None) -> torch.Tensor:
        """ln Σ_k w_k p_k of the rows, (n, V), in `out` if it has the type."""
        count = len(range(*slice(start, end).indices(len(self))))
        wide = torch.promote_types(self._dtype(), torch.float32)
        if out is None or out.dtype != wide:
            out = torch.empty(count, self.vocabulary, dtype=wide, device=self.device)
        is_first = True
        for part, log_weight in zip(self.parts, self._weights(start, end, wide), strict=True):
            if self.device.type == "cpu" and bool((log_weight == -math.inf).all()):  # on CUDA this would wait
                continue
            buffer = out if is_first else self._buffer(count, wide)
            weighted = torch.add(part.rows(start, end, out=buffer), log_weight, out=buffer)
            if not is_first:
                torch.logaddexp(out, weighted, out=out)
            is_first = False
        return out.fill_(-math.inf) if is_first else out

    def _weights(self, start: int, end: int | None, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        """ln w_k for each part: 0-d, or (n, 1)."""
        weights = self.log_weights.to(self.device, dtype)
        return (weights if weights.dim() == 1 else weights[start:end].unsqueeze(1)).unbind(-1)

    def _dtype(self) -> torch.dtype:
        dtype = self.parts[0].features.dtype
        for part in self.parts[1:]:
            dtype = torch.promote_types(dtype, part.features.dtype)
        return dtype

    def _buffer(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        kept = self._scratch.get(dtype)
        if kept is None or len(kept) < count:
            kept = self._scratch[dtype] = torch.empty(count, self.vocabulary, dtype=dtype, device=self.device)
        return kept[:count]


def joined(signals: list[WholeSignal], log_weights: torch.Tensor) -> MixtureSignal:
    """The mixture of J signals at temperature 1, which can be mixtures themselves. log_weights: ln w_j, (N, J)."""
    parts, columns = [], []
    for signal, log_weight in zip(signals, log_weights.unbind(dim=1), strict=True):
        if isinstance(signal, MixtureSignal):
            parts += signal.parts
            columns += (signal.log_weights + log_weight.unsqueeze(1)).unbind(dim=1)  # (N, K)
        else:
            parts.append(signal)
            columns.append(log_weight)
    return MixtureSignal(tuple(parts), torch.stack(columns, dim=1))


def gold_lprobs(signal: WholeSignal, gold: torch.Tensor) -> torch.Tensor:
    """ln p(gold) of each row of a signal, (N,), float32 or wider, for the gold tokens (N,); a few rows at a time."""
    return _by_rows(signal, lambda lprobs, rows: lprobs.gather(1, gold[rows].unsqueeze(1)).squeeze(1))


def largest_lprobs(signal: WholeSignal) -> torch.Tensor:
    """ln p of the most probable entry of each row of a signal, (N,), float32 or wider; a few rows at a time."""
    return _by_rows(signal, lambda lprobs, rows: lprobs.amax(dim=1))


@torch.no_grad()
def _by_rows(signal: WholeSignal, pick) -> torch.Tensor:
    """pick(log-probabilities (n, V), their places) -> (n,), for all rows of a signal."""
    step = rows_at_a_time(signal.device, signal.vocabulary)
    found, buffer = [], None
    for start in range(0, len(signal), step):
        end = min(start + step, len(signal))
        lprobs = signal.rows(start, end, out=None if buffer is None else buffer[: end - start])
        found.append(pick(lprobs, slice(start, end)))
        if isinstance(signal, DenseSignal) and signal.projection is None:
            continue  # the rows are a view, which is not ours to write to
        buffer = lprobs
    return torch.cat(found) if found else torch.zeros(0, device=signal.device)

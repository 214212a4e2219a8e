"""The signal of mutual learning with three or more peers: the mean of the other peers' distributions.

The term of a peer q is the mean of the divergences from the K other peers p_k, each at its own temperature:

    1/K Σ_k KL(p_k || q) = KL(m || q) + 1/K Σ_k KL(p_k || m),    m = 1/K Σ_k p_k

The last sum is the spread of the others. It does not depend on q, so the gradient is that of KL(m || q), and the
student's logits are computed once for all peers. The spread is added to the values of loss and divergence.
"""

import math
from dataclasses import dataclass, replace

import torch

from fairseq_kd.loss.objective import Losses, Objective
from fairseq_kd.loss.rows import kl
from fairseq_kd.loss.signal import DenseSignal


@dataclass(frozen=True)
class MeanSignal(DenseSignal):
    """The mean of the distributions of `parts`, computed on demand, a few rows at a time.

    parts: signals of the same N tokens and V entries, each at its own temperature. spread (N,): in nats; NaN until
    `rows` or `logits` has computed the row. features: of the first part, for number and device of the rows.
    """

    parts: tuple[DenseSignal, ...] = ()
    spread: torch.Tensor | None = None

    @classmethod
    def of(cls, parts) -> "MeanSignal":
        """The mean of two or more signals."""
        features = parts[0].features
        dtype = torch.promote_types(features.dtype, torch.float32)
        spread = torch.full((len(features),), math.nan, dtype=dtype, device=features.device)
        return cls(features, None, 1.0, tuple(parts), spread)

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.parts[0].vocabulary

    @torch.no_grad()
    def rows(self, start: int = 0, end: int | None = None, out: torch.Tensor | None = None) -> torch.Tensor:
        """As `DenseSignal.rows`; sets the spread of these rows."""
        count = len(self.parts)
        found = [part.rows(start, end) for part in self.parts]
        mean = torch.stack(found).logsumexp(dim=0) - math.log(count)
        self.spread[start:end] = sum(kl(each, mean) for each in found) / count
        return mean if out is None else out.copy_(mean)

    def part(self, start: int, end: int) -> "MeanSignal":
        """The rows from start to before end; their spread is the same memory."""
        parts = tuple(each.part(start, end) for each in self.parts)
        return MeanSignal(self.features[start:end], None, 1.0, parts, self.spread[start:end])


def signal_of_others(signals: list[DenseSignal], number: int) -> DenseSignal:
    """The signal for peer `number` (0 is the first) from the signals of all peers."""
    others = signals[:number] + signals[number + 1 :]
    return others[0] if len(others) == 1 else MeanSignal.of(others)


def with_spread(losses: Losses, signal: DenseSignal | None, objective: Objective) -> Losses:
    """`losses` by a signal, with the spread of a `MeanSignal` in the values of loss and divergence.

    losses: values of N tokens or their sums. Its kd was computed from all rows of the signal.
    """
    if not isinstance(signal, MeanSignal):
        return losses
    spread = signal.spread if losses.kd.dim() else signal.spread.sum()
    weight = objective.kd_weight * objective.scale
    return replace(losses, loss=losses.loss + weight * spread, kd=losses.kd + spread)

"""The mixture of distributions of which only k entries and the mass of the others are known, as caches hold them.

The distribution of a teacher is rebuilt over the whole vocabulary. An entry that is stored has its probability. The
mass of the tail is distributed over all other entries: by the tail shape of the token, or evenly if there are no
shapes. So an entry that one cache names and another does not has its share of the tail there. The rebuilt distributions
are mixed at temperature 1, and the temperature is applied to ln p, as in `mixture`.
"""

from dataclasses import dataclass, field

import torch

from fairseq_kd.loss.rows import temper
from fairseq_kd.loss.signal import SMALLEST_OUTSIDE, DenseSignal, TopKSignal, WholeSignal


@dataclass(frozen=True)
class RebuiltMixture(WholeSignal):
    """The distribution Σ_k w_k p_k of N tokens, at a temperature, computed a few rows at a time.

    parts: the K teachers at temperature 1, with the same N. log_weights: see `MixtureSignal`. vocabulary: V.
    """

    parts: tuple[TopKSignal | DenseSignal, ...]
    log_weights: torch.Tensor
    vocabulary: int
    temperature: float = 1.0
    _scratch: dict = field(default_factory=dict, repr=False, compare=False)  # exp(shapes), by the number of the part

    def __len__(self) -> int:
        return len(self.parts[0])

    @property
    def device(self) -> torch.device:
        """The device of the rows."""
        return self.log_weights.device

    @property
    def may_exclude(self) -> bool:
        """Whether a log-probability can be -inf."""
        return True

    @torch.no_grad()
    def rows(self, start: int = 0, end: int | None = None, out: torch.Tensor | None = None) -> torch.Tensor:
        """Log-probabilities (n, V), float32, at the temperature, of the rows from start to before end.

        out: a tensor (n, V) that may hold the result.
        """
        start, end, _ = slice(start, end).indices(len(self))
        weights = self.log_weights.exp().expand(len(self), -1)[start:end]  # (n, K)
        if out is None or out.dtype != torch.float32:
            out = torch.empty(end - start, self.vocabulary, device=self.device)
        out.zero_()
        for number, part in enumerate(self.parts):
            weight = weights[:, number].unsqueeze(1)  # (n, 1)
            part = part.part(start, end)
            if isinstance(part, DenseSignal):
                out.addcmul_(part.features.exp(), weight)
            else:
                self._add(out, number, part, weight)
        return temper(out.log_(), self.temperature)

    def logits(self, start: int = 0, end: int | None = None, out: torch.Tensor | None = None) -> torch.Tensor:
        """See `rows`."""
        return self.rows(start, end, out)

    def part(self, start: int, end: int) -> "RebuiltMixture":
        """The rows from start to before end."""
        weights = self.log_weights if self.log_weights.dim() == 1 else self.log_weights[start:end]
        parts = tuple(part.part(start, end) for part in self.parts)
        return RebuiltMixture(parts, weights, self.vocabulary, self.temperature, self._scratch)

    def _add(self, out: torch.Tensor, number: int, part: TopKSignal, weight: torch.Tensor) -> None:
        """Add weight (n, 1) times the rebuilt distribution of n tokens to out (n, V)."""
        named, tail = weight * part.lprobs.exp(), weight * part.tail.exp().unsqueeze(1)  # (n, k), (n, 1)
        if part.shapes is None:
            share = tail / (self.vocabulary - part.ids.size(1))
            out.add_(share.expand_as(out).scatter(1, part.ids, named))
            return
        shape = self._shapes(number, part.shapes)[part.shape_ids]  # (n, V)
        outside = 1 - shape.gather(1, part.ids).sum(dim=1, keepdim=True, dtype=torch.float64)
        shape.mul_((tail / outside.clamp(min=SMALLEST_OUTSIDE)).to(shape.dtype)).scatter_(1, part.ids, named)
        out.add_(shape)

    def _shapes(self, number: int, shapes: torch.Tensor) -> torch.Tensor:
        if number not in self._scratch:
            self._scratch[number] = shapes.exp()
        return self._scratch[number]

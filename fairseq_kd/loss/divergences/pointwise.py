"""Distances between teacher and student, outcome by outcome."""

import math

from fairseq_kd.loss.divergences.base import Divergence, register


@register
class CentredMSE(Divergence):
    """Mean squared difference of the logits, after the mean of its row is subtracted from each side. In squared nats.

    Log-probabilities serve as logits: the two differ by a constant per row, which centring removes. An outcome with
    -inf on either side has no logit: mean and row means are over the other outcomes, and 0 where no outcome is left.
    The bucket of a truncated teacher has no logit either. The logits are those at temperature 1.
    The papers compare raw logits. A constant added to a row of logits changes no distribution, so here it adds no loss.
    """

    name = "mse"
    formula = "mean squared difference of the centred logits"
    source = "Kim et al. 2021 (arXiv 2105.08919); arXiv 2401.06356"
    sees_tail = False
    takes_temperatures = False

    def between(self, student, teacher):
        """The mean over the K outcomes."""
        none = (student == -math.inf) | (teacher == -math.inf)
        difference = student.masked_fill(none, 0) - teacher.masked_fill(none, 0)
        count = (~none).sum(dim=-1, keepdim=True).clamp(min=1)
        centred = (difference - difference.sum(dim=-1, keepdim=True) / count).masked_fill(none, 0)
        return centred.square().sum(dim=-1) / count.squeeze(-1)


@register
class TotalVariation(Divergence):
    """Total variation distance ½ Σ |p - q|, from 0 (equal) to 1 (nothing in common).

    It is not differentiable where p = q for an outcome: there the outcome gives the subgradient 0. Elsewhere the
    derivative by q is +1/2 or -1/2 for each outcome, however near q is to p.
    Its gradient falls as 1 / T when both temperatures are T, because the difference of two flat distributions falls as
    1 / T and here it is not squared. So --kd-scale auto multiplies by T, and not by T².
    A bucket gives a lower bound of the value over the whole vocabulary: differences inside of the bucket cancel.
    """

    name = "tvd"
    formula = "½ Σ|p - q|"
    source = "Wen et al. 2023 (f-distill, arXiv 2307.15190), there per sequence"
    temperature_power = 1
    is_smooth = False

    def between(self, student, teacher):
        """½ Σ |p - q| over the K outcomes."""
        return (teacher.exp() - student.exp()).abs().sum(dim=-1) / 2

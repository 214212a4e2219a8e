"""Operations on rows of logits and log-probabilities, from which signals, divergences and the objective are built.

Log-probabilities at a temperature T follow from those at temperature 1: softmax(z / T) = softmax(log softmax(z) / T),
because a constant added to a row of logits does not change its softmax.
"""

import math
from typing import NamedTuple

import torch


class Values(NamedTuple):
    """What a loss and its log need of n tokens, each (n,), in nats.

    lse: log-sum-exp of the logits; z_gold, best, z_taught: the logits of the gold token, of the student's most probable
    entry and of the teacher's; kd: the divergence.
    """

    lse: torch.Tensor
    z_gold: torch.Tensor
    best: torch.Tensor
    z_taught: torch.Tensor | None = None
    kd: torch.Tensor | None = None


def temper(lprobs: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-probabilities (..., V) at `temperature` from those at temperature 1.

    The temperature divides the logits: above 1 the distribution is flatter.
    """
    return lprobs if temperature == 1 else torch.log_softmax(lprobs / temperature, dim=-1)


def bucket(lprobs: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (N, k + 1): of the entries `ids` (N, k), and in the last column of all other entries together.

    lprobs (N, V) are normalised, and k < V.
    """
    least = torch.finfo(lprobs.dtype).min  # not -inf: where all values are -inf, the gradient of logsumexp is NaN
    rest = lprobs.scatter(-1, ids, least).logsumexp(dim=-1, keepdim=True)
    rest = rest.masked_fill(rest <= least / 2, -math.inf)
    return torch.cat([lprobs.gather(-1, ids), rest], dim=-1)


def kl(lprobs: torch.Tensor, other_lprobs: torch.Tensor) -> torch.Tensor:
    """KL(first || second) of each row, in nats, (N,). Outcomes that the first distribution excludes add 0.

    Both (N, K), normalised.
    """
    probs = lprobs.exp()
    difference = (lprobs - other_lprobs).masked_fill(probs == 0, 0)
    return (probs * difference).sum(dim=-1)


def weighted(weight: float | torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """weight · value, (N,). A weight of 0 gives 0, even if the value is infinite."""
    if isinstance(weight, torch.Tensor):
        return weight * value.masked_fill(weight == 0, 0)
    return weight * value if weight != 0 else value.masked_fill(torch.ones_like(value, dtype=torch.bool), 0)


def column(weight: float | torch.Tensor) -> float | torch.Tensor:
    """A weight per row, (N,), as (N, 1), so that it multiplies rows of (N, V). One weight for all rows is unchanged."""
    return weight.unsqueeze(1) if isinstance(weight, torch.Tensor) else weight


def scale_rows_(z: torch.Tensor, weight: float | torch.Tensor) -> torch.Tensor:
    """Multiply the rows of z (N, V) by `weight`, in place; returns z. A weight of 1 for all rows costs nothing."""
    return z if isinstance(weight, float) and weight == 1 else z.mul_(column(weight))


def add_rows_(z: torch.Tensor, other: torch.Tensor, weight: float | torch.Tensor) -> None:
    """Add weight · other to z (N, V), in place. Values of `other` are lost."""
    if isinstance(weight, torch.Tensor):
        z.add_(other.mul_(column(weight)))
    else:
        z.add_(other, alpha=weight)


def row_dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Σ_v a_v b_v of each row, (N,). The values of b are lost."""
    return b.mul_(a).sum(dim=1)


def softmax_(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax of each row, in place. Returns (log-sum-exp, largest logit), (N,) each, float32 or wider.

    If every logit of a row is -inf, its log-sum-exp is -inf, and its softmax is set to 1 in the first column.
    Half-precision logits are summed in float32. The log-sum-exp then has the error of one rounded probability.
    """
    wide = torch.promote_types(z.dtype, torch.float32)
    best = z.amax(dim=1)
    z[:, 0].masked_fill_(best == -math.inf, 0)
    torch.softmax(z, dim=1, out=z)
    best = best.to(wide)
    return best - z.amax(dim=1).to(wide).log(), best  # the largest probability is 1 / Σ exp(z - best)

"""Loss and gradient of a few hundred rows of logits; `fused` explains the method.

Each function finds the logits in `chunk.z` and replaces them by dloss/dlogits. One part is missing there: label
smoothing adds the same value to every column, and `fused` adds it. Each function returns five values of the n tokens:
loss, nll, kd, agreed, correct, as in Losses. A divergence can have fast paths of its own, see `Divergence.fused_dense`
and `Divergence.fused_tails`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fairseq_kd.loss.divergences.kl import ShapedTails
from fairseq_kd.loss.objective import Objective, reference_losses
from fairseq_kd.loss.rows import column, softmax_, weighted
from fairseq_kd.loss.signal import TopKSignal


@dataclass
class Chunk:
    """n rows: z (n, V), the gold tokens (n,), and Σ_j z_j (n,), None without label smoothing.

    spare(i): another buffer (n, V), by number. With tail shapes: shape_z (n,) as in `ShapedTails`, and d_shape_z (n,),
    which receives the derivative of the loss by it, as z receives the derivative by the logits.
    """

    z: torch.Tensor
    gold: torch.Tensor
    z_sum: torch.Tensor | None
    spare: Callable[[int], torch.Tensor]
    tails: ShapedTails | None = None
    shape_z: torch.Tensor | None = None
    d_shape_z: torch.Tensor | None = None

    def pick_gold(self) -> torch.Tensor:
        """z of the gold tokens, (n,)."""
        return self.z.gather(1, self.gold.unsqueeze(1)).squeeze(1)

    def smoothed(self, lse, z_gold, smoothing: float):
        """CE_ε (n,) = lse - (1 - ε - ε_i) z_gold - ε_i Σ z: the weights of lse add up to 1."""
        if smoothing == 0:
            return lse - z_gold
        each = smoothing / (self.z.size(1) - 1)
        return lse - (1 - smoothing - each) * z_gold - each * self.z_sum

    def add_gold(self, smoothing: float, weight) -> None:
        """Add the gradient of -weight · (1 - ε - ε_i) · z_gold to z."""
        each = smoothing / (self.z.size(1) - 1)
        value = -(1 - smoothing - each) * weight
        value = value if isinstance(value, torch.Tensor) else self.z.new_full(self.gold.shape, value)
        self.z.scatter_add_(1, self.gold.unsqueeze(1), value.to(self.z.dtype).unsqueeze(1))

    def add_gold_loss(self, objective: Objective, z_gold, lse, kd, agreed, correct):
        """The five results, from the divergence kd and the log-sum-exp lse of all z (n,).

        z already holds the gradient of α · λ · kd and of (1 - α) · lse; this adds the part of the gold tokens.
        """
        weight = objective.kd_weight
        self.add_gold(objective.label_smoothing, 1 - weight)
        gold_loss = self.smoothed(lse, z_gold, objective.label_smoothing)
        loss = weighted(1 - weight, gold_loss) + weighted(weight * objective.scale, kd)
        return loss, lse - z_gold, kd, agreed, correct


def gold_only(chunk: Chunk, objective: Objective):
    """Cross-entropy with the gold tokens, without a teacher."""
    z_gold = chunk.pick_gold()
    lse, best = softmax_(chunk.z)
    chunk.add_gold(objective.label_smoothing, 1.0)
    return chunk.smoothed(lse, z_gold, objective.label_smoothing), lse - z_gold, None, None, z_gold >= best


def top_k(chunk: Chunk, objective: Objective, signal: TopKSignal):
    """A truncated teacher: the divergence depends on the k named logits and on the log-sum-exp of the others.

    With tail shapes it depends on shape_z too.
    """
    z, weight, tau = chunk.z, objective.kd_weight, objective.student_temperature
    z_gold, named = chunk.pick_gold(), z.gather(1, signal.ids)
    if tau == 1:
        z.scatter_(1, signal.ids, float("-inf"))
        rest, best = softmax_(z)  # z: softmax over the others, 0 at the named
        best = torch.maximum(best, named.amax(dim=1))
        gradient, lse, kd = _differentiate(chunk, named, rest, signal, objective, gold_weight=1 - weight)
        z.mul_(gradient[:, -1:]).scatter_(1, signal.ids, gradient[:, :-1])
    else:
        tempered = torch.div(z, tau, out=chunk.spare(0))
        rest, _ = softmax_(tempered.scatter_(1, signal.ids, float("-inf")))
        lse, best = softmax_(z)
        gradient, _, kd = _differentiate(chunk, named / tau, rest, signal, objective, gold_weight=0)
        z.mul_(column(1 - weight)).addcmul_(tempered, gradient[:, -1:] / tau)
        z.scatter_add_(1, signal.ids, gradient[:, :-1] / tau)
    return chunk.add_gold_loss(objective, z_gold, lse, kd, named[:, 0] >= best, z_gold >= best)


def by_autograd(chunk: Chunk, objective: Objective, signal):
    """Any divergence and signal: autograd of the readable definition. It uses about ten arrays of (n, V).

    Here chunk.z also receives the part of label smoothing.
    """
    with torch.enable_grad():
        logits = chunk.z.clone().requires_grad_()
        losses = reference_losses(torch.log_softmax(logits, dim=1), chunk.gold, signal, objective)
        (gradient,) = torch.autograd.grad(losses.loss.sum(), logits)
    chunk.z.copy_(gradient)
    return losses.loss.detach(), losses.nll, losses.kd, losses.agreed, losses.correct


def _differentiate(chunk, named, rest, signal, objective, gold_weight):
    """The truncated teacher's term and gold_weight · lse, differentiated: (gradient (n, k + 1), lse, divergence).

    The gradient of gold_weight · lse + α · λ · divergence is by the k named logits and by `rest`, which is the
    log-sum-exp of the other logits. Both inputs are divided by the student's temperature. The derivative by
    chunk.shape_z goes to chunk.d_shape_z.
    """
    with torch.enable_grad():
        outcomes = torch.cat([named, rest.unsqueeze(1)], dim=1).requires_grad_()
        lse = outcomes.logsumexp(dim=1)
        leaves = [outcomes]
        if chunk.tails is None:
            kd = objective.divergence.of_buckets(outcomes - lse.unsqueeze(1), signal.buckets())
        else:
            leaves.append(chunk.shape_z.requires_grad_())
            shape_z = chunk.shape_z / objective.student_temperature
            kd = chunk.tails.value(outcomes[:, :-1], lse, shape_z, signal)
        value = gold_weight * lse + weighted(objective.kd_weight * objective.scale, kd)
        gradient, *others = torch.autograd.grad(value.sum(), leaves)
    gradient[:, -1].masked_fill_(rest == -math.inf, 0)  # no logit to move
    chunk.d_shape_z = others[0] if others else None
    return gradient, lse.detach(), kd.detach()

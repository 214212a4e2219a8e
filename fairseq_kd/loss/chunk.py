"""Loss and gradient of a few hundred rows of logits; `fused` explains the method.

Each function finds the logits in `chunk.z` and leaves dloss/dlogits there, but for the part of label smoothing that is
the same in every column, which `fused` adds. Each returns five values of the n tokens: loss, nll, kd, agreed, correct,
as in Losses.

Forward KL from k types and a tail of a known shape, without a pass over the vocabulary.

Outside of its k types K a token's teacher is w · M, with M one of G shared distributions (the tail shapes, over all V
types) and w = tail / (1 - Σ_K M), so that the tail keeps its mass. With ln q = z - lse:

    KL = Σ_K p (ln p - z + lse)  +  w Σ_{v not in K} M_v (ln w + ln M_v - z_v + lse)

Each sum over the types that are not in K is that over all V less that over K, which is short. Over all V, Σ M and
Σ M ln M are constants of the shape, and Σ M z = x · (M W) for logits z = x Wᵀ: G rows of M W, once a batch. So the KL
is a function of the named logits, of lse and of `shape_z` = Σ M z; by this last its gradient is -w, and the chain rule
gives -w (M W) for the features and -Mᵀ (Σ w x, summed for each shape) for the projection.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fairseq_kd.loss.objective import Objective, reference_losses, weighted
from fairseq_kd.loss.signal import SMALLEST_OUTSIDE, DenseSignal, TopKSignal


class ShapedTails:
    """The tail shapes of a batch beside the student's projection, and the gradient that they gather."""

    def __init__(self, shapes: torch.Tensor, projection: torch.Tensor, dtype: torch.dtype):
        """shapes (G, V): ln M; projection (V, d): W; dtype: of all that is computed."""
        self.lprobs = shapes.to(dtype)
        self.probs = self.lprobs.exp()
        self.mass = self.probs.sum(dim=1)  # (G,): 1, up to rounding
        self.negentropy = (self.probs * self.lprobs).sum(dim=1)  # (G,)
        self.projected = self.probs @ projection.to(dtype)  # (G, d)
        self.gathered = torch.zeros_like(self.projected)

    def shape_z(self, x: torch.Tensor, shape_ids: torch.Tensor) -> torch.Tensor:
        """Σ M z over all types, (n,), for the features x (n, d) and the shape of each row (n,)."""
        of_all = x.to(self.projected.dtype) @ self.projected.t()  # (n, G)
        return of_all.gather(1, shape_ids.unsqueeze(1)).squeeze(1)

    def forward_kl(self, named, lse, shape_z, signal: TopKSignal) -> torch.Tensor:
        """KL(teacher || student) of each token, in nats, (n,).

        named (n, k): z of the named types; lse (n,): log-sum-exp of all z; shape_z (n,). All divided by the
        student's temperature.
        """
        lprobs = self.lprobs[signal.shape_ids.unsqueeze(1), signal.ids]  # (n, k)
        probs = lprobs.exp()
        outside = self.mass[signal.shape_ids] - probs.sum(dim=1)  # Σ M over the types that are not named
        log_w = signal.tail - outside.clamp(min=SMALLEST_OUTSIDE).log()
        negentropy = self.negentropy[signal.shape_ids] - (probs * lprobs).sum(dim=1)
        outside_z = shape_z - (probs * named).sum(dim=1)
        top_probs = signal.lprobs.exp()
        difference = (signal.lprobs - named + lse.unsqueeze(1)).masked_fill(top_probs == 0, 0)  # 0 ln 0 = 0
        top = (top_probs * difference).sum(dim=1)
        return top + log_w.exp() * (outside * (log_w + lse) + negentropy - outside_z)

    def add_gradient(self, d_features, x, shape_ids, d_shape_z) -> None:
        """Add to d_features (n, d), and gather for `finish`, the gradient d_shape_z (n,) of the loss by shape_z."""
        weights = self.projected.new_zeros(len(x), len(self.projected))  # (n, G); products have a fixed order of sums
        weights.scatter_(1, shape_ids.unsqueeze(1), d_shape_z.unsqueeze(1))
        d_features.addmm_(weights, self.projected)
        self.gathered.addmm_(weights.t(), x.to(self.gathered.dtype))

    def finish(self, d_projection) -> None:
        """Add to d_projection (V, d) what was gathered."""
        d_projection.addmm_(self.probs.t(), self.gathered)


@dataclass
class Chunk:
    """n rows: z (n, V), the gold types (n,), Σ_j z_j (n,) or None without smoothing, and more buffers (n, V).

    With tail shapes: shape_z (n,) as in `shaped`, and d_shape_z (n,), the gradient by it, left there like that by z.
    """

    z: torch.Tensor
    gold: torch.Tensor
    z_sum: torch.Tensor | None
    spare: Callable[[int], torch.Tensor]
    tails: ShapedTails | None = None
    shape_z: torch.Tensor | None = None
    d_shape_z: torch.Tensor | None = None

    def pick_gold(self) -> torch.Tensor:
        """z of the gold types, (n,)."""
        return self.z.gather(1, self.gold.unsqueeze(1)).squeeze(1)

    def smoothed(self, lse, z_gold, smoothing: float):
        """CE_ε (n,): in lse - (1 - ε - ε_i) z_gold - ε_i Σ z the weights of lse add up to 1."""
        if smoothing == 0:
            return lse - z_gold
        each = smoothing / (self.z.size(1) - 1)
        return lse - (1 - smoothing - each) * z_gold - each * self.z_sum

    def add_gold(self, smoothing: float, weight) -> None:
        """The gradient of -weight · (1 - ε - ε_i) · z_gold."""
        each = smoothing / (self.z.size(1) - 1)
        value = -(1 - smoothing - each) * weight
        value = value if isinstance(value, torch.Tensor) else self.z.new_full(self.gold.shape, value)
        self.z.scatter_add_(1, self.gold.unsqueeze(1), value.to(self.z.dtype).unsqueeze(1))


def gold_only(chunk: Chunk, objective: Objective):
    """Cross-entropy with the gold tokens, without a teacher."""
    z_gold = chunk.pick_gold()
    lse, best = softmax_(chunk.z)
    chunk.add_gold(objective.label_smoothing, 1.0)
    return chunk.smoothed(lse, z_gold, objective.label_smoothing), lse - z_gold, None, None, z_gold >= best


def top_k(chunk: Chunk, objective: Objective, signal: TopKSignal):
    """A truncated teacher: the divergence depends on the k named logits and on the log-sum-exp of the others.

    With tail shapes, on shape_z too.
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
        z.mul_(_column(1 - weight)).addcmul_(tempered, gradient[:, -1:] / tau)
        z.scatter_add_(1, signal.ids, gradient[:, :-1] / tau)
    return _weigh(chunk, objective, z_gold, lse, kd, named[:, 0] >= best, z_gold >= best)


def dense_kl(chunk: Chunk, objective: Objective, signal: DenseSignal, start: int, end: int):
    """Forward KL from a whole distribution, the rows from start to before end; its gradient is (q - p) / τ."""
    z, weight, tau = chunk.z, objective.kd_weight, objective.student_temperature
    z_gold, factor = chunk.pick_gold(), weight * objective.scale / tau
    teacher_lprobs = signal.rows(start, end, out=chunk.spare(0))
    named = z.gather(1, teacher_lprobs.argmax(dim=1, keepdim=True)).squeeze(1)
    probs = torch.exp(teacher_lprobs, out=chunk.spare(1))
    difference = torch.sub(teacher_lprobs, z, alpha=1 / tau, out=chunk.spare(0))  # teacher_lprobs is not needed again
    difference.masked_fill_(probs == 0, 0)  # 0 ln 0 = 0
    kd = torch.linalg.vecdot(probs, difference)
    if tau == 1:
        lse, best = softmax_(z)
        kd += lse
        z.mul_(_column(1 - weight + factor))
    else:
        tempered = torch.div(z, tau, out=chunk.spare(0))
        kd += softmax_(tempered)[0]
        lse, best = softmax_(z)
        z.mul_(_column(1 - weight)).add_(tempered.mul_(_column(factor)))
    z.sub_(probs.mul_(_column(factor)))
    return _weigh(chunk, objective, z_gold, lse, kd, named >= best, z_gold >= best)


def by_autograd(chunk: Chunk, objective: Objective, signal):
    """Any divergence and signal: the readable definition, differentiated. It holds some ten arrays of (n, V).

    chunk.z also receives the part of label smoothing.
    """
    with torch.enable_grad():
        logits = chunk.z.clone().requires_grad_()
        losses = reference_losses(torch.log_softmax(logits, dim=1), chunk.gold, signal, objective)
        (gradient,) = torch.autograd.grad(losses.loss.sum(), logits)
    chunk.z.copy_(gradient)
    return losses.loss.detach(), losses.nll, losses.kd, losses.agreed, losses.correct


def softmax_(z):
    """Softmax of each row, in place; returns (log-sum-exp, largest logit), (n,) each.

    Of a row of nothing but -inf, whose log-sum-exp is -inf, it is 1 in the first column.
    """
    best = z.amax(dim=1)
    z[:, 0].masked_fill_(best == -math.inf, 0)
    torch.softmax(z, dim=1, out=z)
    return best - z.amax(dim=1).log(), best  # the largest probability is 1 / Σ exp(z - best)


def _weigh(chunk, objective, z_gold, lse, kd, agreed, correct):
    weight = objective.kd_weight
    chunk.add_gold(objective.label_smoothing, 1 - weight)
    gold_loss = chunk.smoothed(lse, z_gold, objective.label_smoothing)
    loss = weighted(1 - weight, gold_loss) + weighted(weight * objective.scale, kd)
    return loss, lse - z_gold, kd, agreed, correct


def _differentiate(chunk, named, rest, signal, objective, gold_weight):
    """Gradient (n, k + 1) of gold_weight · lse + α · λ · divergence by the named logits and `rest`; lse; divergence.

    named and rest are divided by the student's temperature. That by chunk.shape_z is left in chunk.d_shape_z.
    """
    with torch.enable_grad():
        outcomes = torch.cat([named, rest.unsqueeze(1)], dim=1).requires_grad_()
        lse = outcomes.logsumexp(dim=1)
        leaves = [outcomes]
        if chunk.tails is None:
            kd = objective.between(outcomes - lse.unsqueeze(1), signal.buckets(), tail=True)
        else:
            leaves.append(chunk.shape_z.requires_grad_())
            shape_z = chunk.shape_z / objective.student_temperature
            kd = chunk.tails.forward_kl(outcomes[:, :-1], lse, shape_z, signal)
        value = gold_weight * lse + weighted(objective.kd_weight * objective.scale, kd)
        gradient, *others = torch.autograd.grad(value.sum(), leaves)
    gradient[:, -1].masked_fill_(rest == -math.inf, 0)  # there is no logit to move
    chunk.d_shape_z = others[0] if others else None
    return gradient, lse.detach(), kd.detach()


def _column(weight):
    return weight.unsqueeze(1) if isinstance(weight, torch.Tensor) else weight

"""Gradient and logged values of some rows of logits; `fused` explains the method.

Each function finds the logits in `chunk.z` and replaces them by dloss/dlogits. One part is missing there: label
smoothing adds the same value to every column, and `fused` adds it. Each function returns `Values`, of which `fused`
computes the loss of all rows at once. A divergence can have fast paths of its own, see `Divergence.fused_dense` and
`Divergence.fused_top_k`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fairseq_kd.loss.objective import Objective, reference_losses
from fairseq_kd.loss.rows import Values, column, softmax_, weighted
from fairseq_kd.loss.signal import DenseSignal, TopKSignal, WholeSignal


def losses_of(values: Values, objective: Objective, z_sum: torch.Tensor | None, vocabulary: int) -> torch.Tensor:
    """The objective of each token, (n,). z_sum: Σ_j z_j, (n,); None without label smoothing.

    CE_ε = lse - (1 - ε - ε_i) z_gold - ε_i Σ z: the weights of lse add up to 1.
    """
    smoothing, weight = objective.label_smoothing, objective.kd_weight
    loss = values.lse - values.z_gold
    if smoothing:
        each = smoothing / (vocabulary - 1)
        loss = values.lse - (1 - smoothing - each) * values.z_gold - each * z_sum
    if values.kd is None:
        return loss
    return weighted(1 - weight, loss) + weighted(weight * objective.scale, values.kd)


@dataclass
class Chunk:
    """n rows: z (n, V), the gold tokens (n,), and the gradient that the gold logits get beside the softmax, (n,).

    z: of the type of the computations; `gold_only` and `top_k` at the temperature 1 also take bfloat16, which saves two
    passes that change the type. spare(i): another buffer (n, V), by number.
    """

    z: torch.Tensor
    gold: torch.Tensor
    gold_gradient: torch.Tensor
    spare: Callable[[int], torch.Tensor]

    def pick_gold(self) -> torch.Tensor:
        """z of the gold tokens, (n,), in the type of the computations."""
        return self.pick(self.gold.unsqueeze(1)).squeeze(1)

    def pick(self, ids: torch.Tensor) -> torch.Tensor:
        """z of the entries ids (n, k), in the type of the computations."""
        return self.z.gather(1, ids).to(self.gold_gradient.dtype)

    def put(self, ids: torch.Tensor, values: torch.Tensor | float) -> None:
        """Overwrite z of the entries ids (n, k), which differ within a row, by values (n, k) or one value."""
        if self.z.dtype != torch.bfloat16:
            self.z.scatter_(1, ids, values)
            return
        rows = torch.arange(len(ids), device=ids.device).unsqueeze(1)  # `scatter_` converts all of a bfloat16 z twice
        self.z[rows, ids] = values if isinstance(values, float) else values.to(self.z.dtype)

    def add_gold(self) -> None:
        """Add the gradient of the gold logits to z."""
        ids, gradient = self.gold.unsqueeze(1), self.gold_gradient.unsqueeze(1)
        if self.z.dtype == torch.bfloat16:
            self.put(ids, self.pick(ids).add_(gradient))
        else:
            self.z.scatter_add_(1, ids, gradient)


def gold_gradient(objective: Objective, target: torch.Tensor, vocabulary: int, dtype, taught: bool) -> torch.Tensor:
    """The gradient of -(1 - α) · (1 - ε - ε_i) · z_gold by z_gold, (N,). taught: with a signal; else α = 0."""
    smoothing, weight = objective.label_smoothing, objective.kd_weight if taught else 0.0
    value = (1 - smoothing - smoothing / (vocabulary - 1)) * (weight - 1)
    zeros = torch.zeros(target.shape, dtype=dtype, device=target.device)
    return zeros + value


def gold_only(chunk: Chunk) -> Values:
    """Cross-entropy with the gold tokens, without a teacher."""
    z_gold = chunk.pick_gold()
    lse, best = softmax_(chunk.z)
    chunk.add_gold()
    return Values(lse, z_gold, best)


def top_k(chunk: Chunk, objective: Objective, signal: TopKSignal, differentiate=None) -> Values:
    """A truncated teacher: the divergence depends on the k named logits and on the log-sum-exp of the others.

    differentiate: see `by_buckets`, which is the default. Its third result can be None, for a divergence that is
    computed later.
    """
    z, weight, tau = chunk.z, objective.kd_weight, objective.student_temperature
    differentiate = differentiate or by_buckets(objective, signal)
    z_gold, named = chunk.pick_gold(), chunk.pick(signal.ids)
    if tau == 1:
        chunk.put(signal.ids, -math.inf)
        rest, best = softmax_(z)  # z: softmax over the others, 0 at the named
        best = torch.maximum(best, named.amax(dim=1))
        gradient, lse, kd = differentiate(named, rest)
        z.mul_(gradient[:, -1:].to(z.dtype))
        chunk.put(signal.ids, gradient[:, :-1])
    else:
        tempered = torch.div(z, tau, out=chunk.spare(0))
        rest, _ = softmax_(tempered.scatter_(1, signal.ids, float("-inf")))
        lse, best = softmax_(z)
        gradient, _, kd = differentiate(named / tau, rest)
        z.mul_(column(1 - weight)).addcmul_(tempered, gradient[:, -1:] / tau)
        z.scatter_add_(1, signal.ids, gradient[:, :-1] / tau)
    chunk.add_gold()
    return Values(lse, z_gold, best, named[:, 0], kd)


def by_autograd(chunk: Chunk, objective: Objective, signal) -> Values:
    """Any divergence and signal: autograd of the readable definition. It uses about ten arrays of (n, V).

    Here chunk.z also receives the part of label smoothing.
    """
    if isinstance(signal, WholeSignal):
        signal = DenseSignal(signal.rows(), None)  # computed once
    values = Values(chunk.z.logsumexp(dim=1), chunk.pick_gold(), chunk.z.amax(dim=1))
    z_taught = chunk.z.gather(1, signal.most_probable().unsqueeze(1)).squeeze(1)
    with torch.enable_grad():
        logits = chunk.z.clone().requires_grad_()
        losses = reference_losses(torch.log_softmax(logits, dim=1), chunk.gold, signal, objective)
        (gradient,) = torch.autograd.grad(losses.loss.sum(), logits)
    chunk.z.copy_(gradient)
    return values._replace(z_taught=z_taught, kd=losses.kd)


def by_buckets(objective: Objective, signal: TopKSignal):
    """differentiate(named (n, k), rest (n,)) -> (gradient (n, k + 1), lse (n,), divergence (n,)), by autograd.

    The gradient of (1 - α) · lse + α · λ · divergence is by the k named logits and by `rest`, which is the log-sum-exp
    of the other logits. All are divided by the student's temperature τ. If τ is not 1, the first term is left out.
    """
    gold_weight = 1 - objective.kd_weight if objective.student_temperature == 1 else 0

    def differentiate(named, rest):
        with torch.enable_grad():
            outcomes = torch.cat([named, rest.unsqueeze(1)], dim=1).requires_grad_()
            lse = outcomes.logsumexp(dim=1)
            kd = objective.divergence.of_buckets(outcomes - lse.unsqueeze(1), signal.buckets())
            value = gold_weight * lse + weighted(objective.kd_weight * objective.scale, kd)
            (gradient,) = torch.autograd.grad(value.sum(), outcomes)
        gradient[:, -1].masked_fill_(rest == -math.inf, 0)  # no logit to move
        return gradient, lse.detach(), kd.detach()

    return differentiate

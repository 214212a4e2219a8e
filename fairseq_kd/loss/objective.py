"""The objective of word-level KD: its options, and its readable computation over whole rows of log-probabilities.

    loss = (1 - α) · CE_ε(gold, student) + α · λ · D(teacher at τt, student at τs)

`fused` computes the same in chunks, without an array of N x V.
"""

from dataclasses import dataclass, replace

import torch

from fairseq_kd.loss.divergence import bucket, centred_mse, forward_kl, js, ranking, reverse_kl, temper
from fairseq_kd.loss.signal import DenseSignal, TopKSignal

DIVERGENCES = ("kl", "reverse_kl", "js", "mse", "tie")


@dataclass(frozen=True)
class Objective:
    """What is minimised. kd_weight is α (or one value a row, (N,)), scale is λ, label_smoothing is ε."""

    kd_weight: float | torch.Tensor = 0.5
    scale: float = 1.0
    label_smoothing: float = 0.0
    student_temperature: float = 1.0
    divergence: str = "kl"
    js_beta: float = 0.5
    ranking_size: int = 5

    def part(self, start: int, end: int) -> "Objective":
        """The objective of the rows from start to before end alone."""
        return replace(self, kd_weight=self.kd_weight[start:end]) if isinstance(self.kd_weight, torch.Tensor) else self

    @property
    def sees_tail_shapes(self) -> bool:
        """Whether the types outside of a truncated teacher's k count one by one, if the signal has tail shapes.

        For the others they are one outcome: these are not linear in the student's log-probabilities, so that nothing
        short of a pass over the vocabulary would compute them.
        """
        return self.divergence in ("kl", "tie")

    def between(self, student_buckets: torch.Tensor, teacher_buckets: torch.Tensor, tail: bool) -> torch.Tensor:
        """The part of the divergence that needs no more than the same K outcomes on both sides, (N, K) -> (N,).

        tail: the last outcome stands for all types that are not named. MSE leaves it out: it has no logit.
        """
        match self.divergence:
            case "kl" | "tie":
                return forward_kl(student_buckets, teacher_buckets)
            case "reverse_kl":
                return reverse_kl(student_buckets, teacher_buckets)
            case "js":
                return js(student_buckets, teacher_buckets, self.js_beta)
            case "mse":
                end = -1 if tail else None
                return centred_mse(student_buckets[:, :end], teacher_buckets[:, :end])
        raise ValueError(f"unknown divergence {self.divergence!r}; known: {', '.join(DIVERGENCES)}")


@dataclass
class Losses:
    """Of each of the N tokens: loss, nll and kd in nats; whether the most probable type is the teacher's, and the gold.

    (N,), or their sums, 0-d. kd (unweighted, unscaled) and agreed are None without a teacher's signal.
    """

    loss: torch.Tensor
    nll: torch.Tensor
    correct: torch.Tensor
    kd: torch.Tensor | None = None
    agreed: torch.Tensor | None = None

    def sum(self) -> "Losses":
        """Sums over the tokens."""
        return Losses(**{name: value if value is None else value.sum() for name, value in vars(self).items()})


def reference_losses(lprobs: torch.Tensor, target: torch.Tensor, signal, objective: Objective) -> Losses:
    """The objective of N tokens from the student's log-probabilities (N, V) at temperature 1 and target (N,).

    signal: the teacher's, of the same N rows, or None. Differentiable by lprobs.
    """
    nll = -lprobs.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    loss = smoothed(nll, lprobs, objective.label_smoothing)
    best = lprobs.argmax(dim=-1)
    losses = Losses(loss, nll.detach(), best == target)
    if signal is not None:
        kd, teacher_best = divergence(lprobs, signal, objective)
        weight = objective.kd_weight
        losses.loss = weighted(1 - weight, loss) + weighted(weight * objective.scale, kd)
        losses.kd, losses.agreed = kd.detach(), best == teacher_best
    return losses


def weighted(weight: float | torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """weight · value, (N,): 0 where the weight is 0, also of what is infinite."""
    if isinstance(weight, torch.Tensor):
        return weight * value.masked_fill(weight == 0, 0)
    return weight * value if weight != 0 else value.masked_fill(torch.ones_like(value, dtype=torch.bool), 0)


def smoothed(nll: torch.Tensor, lprobs: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Label-smoothed cross-entropy (N,) in fairseq's form: ε / (V - 1) on each type that is not the gold one.

    As there, +inf where ε > 0 and the student excludes a type.
    """
    if label_smoothing == 0:
        return nll
    each = label_smoothing / (lprobs.size(-1) - 1)
    return (1 - label_smoothing - each) * nll - each * lprobs.sum(dim=-1)


def divergence(lprobs: torch.Tensor, signal: DenseSignal | TopKSignal, objective: Objective):
    """(divergence (N,) in nats, the teacher's most probable type (N,)) for student log-probabilities (N, V)."""
    student = temper(lprobs, objective.student_temperature)
    if isinstance(signal, TopKSignal):
        if signal.shapes is not None and objective.sees_tail_shapes:
            value = forward_kl(student, signal.rows())
        else:
            value = objective.between(bucket(student, signal.ids), signal.buckets(), tail=True)
        teacher, ids, best = None, signal.ids, signal.ids[:, 0]
    else:
        teacher = signal.rows()
        value = objective.between(student, teacher, tail=False)
        ids, best = None, teacher.argmax(dim=-1)
    if objective.divergence == "tie":
        size = min(objective.ranking_size, student.size(-1) if ids is None else ids.size(-1))
        own_ids = student.topk(size, dim=-1).indices
        if ids is None:
            top, ids = teacher.topk(size, dim=-1)
            own = teacher.gather(-1, own_ids)
        else:
            top, own = signal.lprobs[:, :size], lookup(signal, own_ids)
        value = value + ranking(student, ids[:, :size], top, own_ids, own)
    return value, best


def lookup(signal: TopKSignal, ids: torch.Tensor) -> torch.Tensor:
    """The teacher's log-probabilities of `ids` (N, r); -inf for a type that it does not name."""
    same = ids.unsqueeze(-1) == signal.ids.unsqueeze(1)  # (N, r, k)
    return torch.where(same, signal.lprobs.unsqueeze(1), float("-inf")).amax(dim=-1)

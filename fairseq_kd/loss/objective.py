"""The objective of word-level KD: its options, and its readable computation over whole rows of log-probabilities.

    loss = (1 - α) · CE_ε(gold, student) + α · λ · D(teacher at τt, student at τs)

`fused` computes the same in chunks, without an array of size N x V. With selective KD, α is 0 for the tokens that are
not selected (`hardest`, `RecentTokens`).
"""

from dataclasses import dataclass, field, replace

import torch

from fairseq_kd.loss.divergences import DIVERGENCES, Divergence
from fairseq_kd.loss.rows import temper, weighted
from fairseq_kd.loss.signal import DenseSignal, TopKSignal, WholeSignal


@dataclass(frozen=True)
class Objective:
    """The minimised function. kd_weight is α (one value, or one per row, (N,)), scale is λ, label_smoothing is ε."""

    kd_weight: float | torch.Tensor = 0.5
    scale: float = 1.0
    label_smoothing: float = 0.0
    student_temperature: float = 1.0
    divergence: Divergence = field(default_factory=DIVERGENCES["kl"])

    def part(self, start: int, end: int) -> "Objective":
        """The objective of the rows from start to before end."""
        return replace(self, kd_weight=self.kd_weight[start:end]) if isinstance(self.kd_weight, torch.Tensor) else self


def temperature_scale(
    policy: str | float, teacher_temperature: float, student_temperature: float, power: int = 2
) -> float:
    """The factor λ of the teacher's term.

    policy: "auto" (T^power when both temperatures are T, else 1), "none" (1) or a positive number. power: see
    `Divergence.temperature_power`; 2 for most divergences.
    T² keeps the size of the gradient when both temperatures grow, because the gradient falls as 1/T² (Hinton et al.
    2015, section 2.1). With the student at temperature 1 the gradient does not fall, so λ is 1.
    """
    if policy == "auto":
        same = teacher_temperature == student_temperature
        return teacher_temperature**power if same else 1.0  # the only place where T² is applied
    return 1.0 if policy == "none" else float(policy)


@dataclass
class Losses:
    """Values of N tokens, (N,), or their sums, 0-d.

    loss, nll and kd are in nats; kd has no weight and no scale. agreed and correct: whether the student's most probable
    entry is the teacher's, and whether it is the gold token. kd and agreed are None without a teacher's signal.
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

    signal: the teacher's signal of the same N rows, or None. Differentiable by lprobs.
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


def smoothed(nll: torch.Tensor, lprobs: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Label-smoothed cross-entropy (N,) in fairseq's form: ε / (V - 1) for each entry that is not the gold token.

    As in fairseq, +inf where ε > 0 and the student excludes an entry.
    """
    if label_smoothing == 0:
        return nll
    each = label_smoothing / (lprobs.size(-1) - 1)
    return (1 - label_smoothing - each) * nll - each * lprobs.sum(dim=-1)


def divergence(lprobs: torch.Tensor, signal: WholeSignal | TopKSignal, objective: Objective):
    """(divergence (N,), the teacher's most probable entry (N,)) for the student's log-probabilities (N, V)."""
    if isinstance(signal, WholeSignal):
        signal = DenseSignal(signal.rows(), None)  # computed once
    student = temper(lprobs, objective.student_temperature)
    return objective.divergence.of_signal(student, signal), signal.most_probable()


UNIT = 2**16  # values are kept as integers, in units of 1/65,536 nat: .half() of a module does not change integers


def hardest(nll: torch.Tensor, rate: float) -> torch.Tensor:
    """Which of the N tokens are in the share `rate` (0..1] with the largest nll (N,); at least one is. Bool (N,).

    Selective KD: only these tokens get the teacher's term. The other tokens keep their cross-entropy: their α is 0.
    Source: Wang et al., ACL 2021 (arXiv 2105.12967), batch-level selection.
    """
    return nll >= _threshold(nll, rate) if len(nll) else torch.zeros_like(nll, dtype=torch.bool)


def _threshold(nll: torch.Tensor, rate: float) -> torch.Tensor:
    count = max(1, round(rate * len(nll)))
    return nll.topk(count, sorted=False).values.min()


class RecentTokens(torch.nn.Module):
    """The nll of the last `size` training tokens, over which the threshold of a global-level selection is computed.

    Source: Wang et al., ACL 2021 (arXiv 2105.12967), global-level selection.
    It is a module, so that fairseq saves it with the criterion and a resumed training has the same threshold. fairseq
    saves the state of a criterion only if the criterion has a trainable parameter: this is `anchor`, which never
    changes. Each process of a distributed training has its own recent tokens. The tokens of the first process are
    saved, and all processes continue from them.
    """

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("values", torch.zeros(size, dtype=torch.int32))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    @torch.no_grad()
    def push(self, nll: torch.Tensor) -> None:
        """Append the finite values of the nll (N,) of a batch; they replace the oldest values."""
        nll = nll[nll.isfinite()]
        size, new = self.values.numel(), (nll.detach().float() * UNIT).round().int()[-self.values.numel() :]
        places = (self.seen + torch.arange(len(new), device=nll.device)) % size
        self.values[places] = new
        self.seen += len(new)

    def hardest(self, nll: torch.Tensor, rate: float) -> torch.Tensor:
        """Which of the N tokens of a batch are as hard as the hardest share `rate` of the recent tokens. Bool (N,)."""
        if len(nll) == 0 or int(self.seen) == 0:
            return torch.zeros_like(nll, dtype=torch.bool)
        known = self.values[: min(int(self.seen), self.values.numel())]
        return nll.detach() * UNIT >= _threshold(known.float(), rate) - 0.5

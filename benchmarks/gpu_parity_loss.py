"""The fused loss and the readable one in three types, each against the readable one in float64. Part of `gpu.py`."""

import torch
from gpu_data import TAIL_SHAPES, TOP_K, Bench
from gpu_report import FAILED, Section

from fairseq_kd.loss.divergences import DIVERGENCES
from fairseq_kd.loss.fused import fused_loss
from fairseq_kd.loss.objective import Objective, reference_losses
from fairseq_kd.loss.signal import DenseSignal, TopKSignal

WIDTH = 64
KINDS = ("no teacher", "dense", "top-k", "top-k, tail shapes")
# relative error of (loss, gradients); for gradients by the norm over all entries
TOLERANCES = {
    torch.float32: (1e-5, 1e-4),
    torch.float16: (1e-3, 5e-3),
    torch.bfloat16: (1e-2, 3e-2),
}
# times the tolerances, for a divergence with kinks: rounding chooses another one-sided derivative for some tokens
KINKS = 5


def fused_against_readable(bench: Bench, section: Section) -> None:
    """One row for each divergence, kind of signal and type."""
    for divergence in DIVERGENCES:
        for kind in KINDS:
            if not meaningful(divergence, kind):
                continue
            case = Case(bench, divergence, kind)
            for dtype in TOLERANCES:
                labels = {"divergence": divergence, "signal": kind, "type": str(dtype).removeprefix("torch.")}
                section.attempt("fused and readable loss against float64", labels, lambda: case.compare(dtype))  # noqa: B023


def meaningful(divergence: str, kind: str) -> bool:
    """Whether the divergence uses such a signal differently from another kind."""
    if kind == "no teacher":
        return divergence == "kl"
    return kind != "top-k, tail shapes" or DIVERGENCES[divergence].sees_tail_shapes


class Case:
    """Random features, projections, gold tokens and the teacher's signal; in float64, and rounded to a type."""

    def __init__(self, bench: Bench, divergence: str, kind: str):
        self.kind, sizes = kind, bench.sizes
        weight = 0.0 if kind == "no teacher" else 0.5
        self.objective = Objective(kd_weight=weight, label_smoothing=0.1, divergence=DIVERGENCES[divergence]())
        generator = torch.Generator().manual_seed(1)
        shapes = ((sizes.rows, WIDTH), (sizes.vocabulary, WIDTH)) * 2
        drawn = [torch.randn(shape, generator=generator) for shape in shapes]
        # rounded to the narrowest type: the same numbers in every type, so that the errors come from the computation
        # alone
        self.inputs = [x.mul_(0.3 if number % 2 else 1.0).bfloat16().to(bench.device) for number, x in enumerate(drawn)]
        self.target = torch.randint(sizes.vocabulary, (sizes.rows,), generator=generator).to(bench.device)
        self.log_shapes = torch.randn(TAIL_SHAPES, sizes.vocabulary, generator=generator).log_softmax(dim=-1)
        self.log_shapes = self.log_shapes.to(bench.device)
        self.expected = self.readable(torch.float64)

    def compare(self, dtype) -> dict:
        """Errors of the fused and of the readable loss in a type."""
        loss_tolerance, tolerance = TOLERANCES[dtype]
        if not self.objective.divergence.is_smooth and dtype != torch.float32:
            loss_tolerance, tolerance = KINKS * loss_tolerance, KINKS * tolerance
        fused, readable = self.errors(self.fused(dtype)), self.errors(self.readable(dtype))
        right = fused[0] <= loss_tolerance and max(fused[1:]) <= tolerance
        figures = {"fused: loss": fused[0], "dx": fused[1], "dW": fused[2]}
        figures |= {"readable: loss": readable[0], "its dx": readable[1], "its dW": readable[2]}
        return figures | {"tolerances": f"{loss_tolerance:g}, {tolerance:g}", "result": "ok" if right else FAILED}

    def errors(self, found) -> list[float]:
        """Relative errors of loss, dx and dW."""
        pairs = zip(found, self.expected, strict=True)
        return [((a.double() - b).norm() / b.norm()).item() for a, b in pairs]

    def student(self, dtype):
        """Features and projection as leaves."""
        return [tensor.to(dtype, copy=True).requires_grad_() for tensor in self.inputs[:2]]

    def signal(self, dtype):
        """The teacher's."""
        dense = DenseSignal(*(tensor.to(dtype) for tensor in self.inputs[2:]))
        if self.kind in ("no teacher", "dense"):
            return dense if self.kind == "dense" else None
        stored = DenseSignal(*(tensor.double() for tensor in self.inputs[2:])).truncate(TOP_K)
        real = torch.float64 if dtype == torch.float64 else torch.float32
        shapes = (None, None)
        if self.kind != "top-k":
            shapes = (self.log_shapes, torch.arange(len(self.target), device=self.target.device) % TAIL_SHAPES)
        return TopKSignal(stored.ids, stored.lprobs.to(real), stored.tail.to(real), *shapes)

    def fused(self, dtype):
        """(loss, dx, dW)."""
        x, w = self.student(dtype)
        loss = fused_loss(x, w, self.target, self.signal(dtype), self.objective).loss
        loss.backward()
        return loss.detach(), x.grad, w.grad

    def readable(self, dtype):
        """The same from whole rows: fairseq's log-softmax is float32 for narrower types."""
        x, w = self.student(dtype)
        lprobs = torch.log_softmax((x @ w.t()).to(torch.promote_types(dtype, torch.float32)), dim=-1)
        loss = reference_losses(lprobs, self.target, self.signal(dtype), self.objective).loss.sum()
        loss.backward()
        return loss.detach(), x.grad, w.grad

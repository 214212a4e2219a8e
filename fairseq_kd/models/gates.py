"""Hard-concrete gates on groups of inputs of a linear layer (Louizos et al. 2018, arXiv 1712.01312).

A gate is open (1), closed (0) or in between. In training it is drawn:

    z = clamp(sigmoid((log u - log(1 - u) + log α) / β) · (ζ - γ) + γ, 0, 1),   u uniform in (0, 1)

Otherwise z = clamp(sigmoid(log α) · (ζ - γ) + γ, 0, 1) (equations 10 to 13 of the paper). The probability that a drawn
gate is not closed is sigmoid(log α - β log(-γ / ζ)).
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1  # as in the paper, section 4
INITIAL = 2.5  # initial log α, just above the smallest value of an open gate (log 11 = 2.398)
# log α = SPEED · score. Adam moves every parameter by about the learning rate, whatever the size of its gradient. A
# gate must move by about 5 to close, but a weight only moves by hundredths. So the factor acts as a separate learning
# rate for gates, without parameter groups, which fairseq's optimizers do not have.
SPEED = 10.0
GATE_STATE = (".gates.score", ".gates.decided")  # the ends of the names of gates in a state dict


class HardConcreteGate(nn.Module):
    """n gates. `noise` (n,) holds log u - log(1 - u) for the update; None: gates are not drawn, as in eval mode.

    `decided` (n,): 1 for a gate that stays open, 0 for one that stays closed, -1 for one that depends on its score.
    """

    def __init__(self, n: int):
        super().__init__()
        self.score = nn.Parameter(torch.full((n,), INITIAL / SPEED))
        self.register_buffer("decided", torch.full((n,), -1, dtype=torch.int8))
        self.noise: torch.Tensor | None = None

    def _apply(self, fn, recurse=True):
        """Keep the scores in float32 when the model becomes half precision.

        A score collects the gradients of all tokens. In float16 they overflow first and dictate the scale of the loss.
        """
        before = self.score.detach()
        super()._apply(fn, recurse)
        if self.score.dtype in (torch.float16, torch.bfloat16):
            self.score.data = before.to(self.score.device, torch.float32)
        return self

    def log_alpha(self) -> torch.Tensor:
        """log α, (n,), in float32 even if the model trains in half precision."""
        return SPEED * self.score.float()

    def open_probability(self) -> torch.Tensor:
        """The probability that a drawn gate is not closed, (n,)."""
        return open_probability(self.log_alpha(), self.decided)

    def fixed_values(self) -> torch.Tensor:
        """The values of the gates when they are not drawn, (n,) in [0, 1]."""
        return fixed_values(self.log_alpha(), self.decided)

    def forward(self) -> torch.Tensor:
        """The values of the gates, (n,) in [0, 1]."""
        if not self.training or self.noise is None:
            return self.fixed_values()
        log_alpha = self.log_alpha()
        drawn = stretched((self.noise.to(log_alpha.device) + log_alpha) / BETA)
        return unless_decided(drawn, self.decided)


def open_probability(log_alpha: torch.Tensor, decided: torch.Tensor) -> torch.Tensor:
    """The probability that each of n drawn gates is not closed, (n,). decided: as in HardConcreteGate."""
    return unless_decided(torch.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA)), decided)


def fixed_values(log_alpha: torch.Tensor, decided: torch.Tensor) -> torch.Tensor:
    """The values of n gates when they are not drawn, (n,) in [0, 1]. decided: as in HardConcreteGate."""
    return unless_decided(stretched(log_alpha), decided)


def unless_decided(values: torch.Tensor, decided: torch.Tensor) -> torch.Tensor:
    """`values` (n,), replaced by 1 or 0 for gates that are decided."""
    return torch.where(decided < 0, values, decided.to(values.dtype))


def stretched(x: torch.Tensor) -> torch.Tensor:
    """A sigmoid from γ to ζ, clamped to [0, 1]."""
    return (torch.sigmoid(x) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


class GatedLinear(nn.Linear):
    """A linear layer whose inputs form `groups` groups of `size`. A gate multiplies each group, but not the bias."""

    def __init__(self, groups: int, size: int, out_features: int):
        super().__init__(groups * size, out_features)
        self.gates = HardConcreteGate(groups)
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in_features) -> (..., out_features)."""
        gated = _Multiply.apply(x.unflatten(-1, (len(self.gates.score), self.size)), self.gates())
        return F.linear(gated.flatten(-2), self.weight, self.bias)


class _Multiply(torch.autograd.Function):
    """x (..., groups, size) times gates (groups,). The gradient of the gates is summed in their own type, float32."""

    @staticmethod
    def forward(ctx, x, gates):
        ctx.save_for_backward(x, gates)
        return x * gates.to(x.dtype).unsqueeze(-1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        x, gates = ctx.saved_tensors
        others = [place for place in range(x.dim()) if place != x.dim() - 2]
        d_gates = (gradient * x).sum(dim=others, dtype=gates.dtype)
        return gradient * gates.to(gradient.dtype).unsqueeze(-1), d_gates

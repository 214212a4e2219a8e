"""The weight g of the token level in kd_hybrid: from a schedule, or learned, for each sentence."""

import math

import torch


def scheduled(start: float, end: float, updates: int, update: int) -> float:
    """g at an update (0 is the first): a straight line from `start` to `end`, reached after so many updates."""
    return start + (end - start) * min(update / updates, 1.0)


class LearnedGate(torch.nn.Module):
    """g = sigmoid(w · h + b), h the mean of the encoder's output over a source sentence (Wei et al. 2024).

    The states are detached. So the encoder is trained by the two losses as they are weighed, and not to show the gate
    the sentences on which one of them is small. w begins with 0 and b where every g is `start`.

    A gate lowers the loss also by preferring the target that is easier to fit, which need not be the better teacher
    and is no matter of the sentence at all: watch the mean that is logged.
    """

    def __init__(self, width: int, start: float):
        """width: of the encoder's output; start: between 0 and 1, without them."""
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(width))
        self.bias = torch.nn.Parameter(torch.tensor([math.log(start / (1 - start))]))

    def forward(self, states: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
        """g (B,), float32, from the encoder's output (S, B, d) and its padding (B, S), None for none."""
        states = states.detach().float()
        if padding is None or not padding.any():
            mean = states.mean(dim=0)  # (B, d)
        else:
            real = (~padding).t().unsqueeze(-1)  # (S, B, 1)
            mean = (states * real).sum(dim=0) / real.sum(dim=0)
        return torch.sigmoid(mean @ self.weight.float() + self.bias.float())

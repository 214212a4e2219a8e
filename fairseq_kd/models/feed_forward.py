"""The gated linear unit as first half of a feed-forward network (Shazeer 2020, "GLU Variants Improve Transformer")."""

import torch
import torch.nn.functional as F
from fairseq import utils
from torch import nn

FFN_TYPES = ("plain", "glu")
# fairseq offers no swish (its function for it returns a class) and no sigmoid, the gate of the first GLU
MORE_ACTIVATIONS = {"swish": F.silu, "sigmoid": torch.sigmoid}


def activation(name: str):
    """The function of --activation-fn."""
    return MORE_ACTIVATIONS.get(name) or utils.get_activation_fn(name)


def inner_width(ffn_embed_dim: int, ffn_type: str) -> int:
    """Inner width of a feed-forward network of the type that has as many parameters as a plain one of `ffn_embed_dim`.

    A GLU has three matrices instead of two, so two thirds (Shazeer 2020, section 2), rounded to a multiple of 8.
    """
    return ffn_embed_dim if ffn_type == "plain" else max(8, 8 * round(ffn_embed_dim * 2 / 3 / 8))


class GatedLinearUnit(nn.Module):
    """x -> value(x) ⊙ activation(gate(x)). Takes the place of fairseq's fc1; fc2 follows as before.

    With biases, as everywhere in fairseq's transformer; Shazeer 2020 leaves them out.
    """

    def __init__(self, input_dim: int, width: int, activation_fn):
        super().__init__()
        self.value = nn.Linear(input_dim, width)
        self.gate = nn.Linear(input_dim, width)
        self.activation_fn = activation_fn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., input_dim) -> (..., width)."""
        return self.value(x) * self.activation_fn(self.gate(x))


def identity(x: torch.Tensor) -> torch.Tensor:
    """What stands where fairseq applies its activation function to fc1: a GLU has applied it already."""
    return x


def linears_of(first_half: nn.Module) -> list[nn.Linear]:
    """The matrices (width, input_dim) of the first half: one, or value and gate."""
    return [first_half.value, first_half.gate] if isinstance(first_half, GatedLinearUnit) else [first_half]

"""Sublayers of students: attention with any number of heads, and the gated linear unit of a feed-forward network.

Attention with fewer heads than embed_dim / head_dim, or none, and with a gate on each head.

The gated linear unit as first half of a feed-forward network (Shazeer 2020, "GLU Variants Improve Transformer").
"""

import torch
import torch.nn.functional as F
from fairseq import utils
from fairseq.modules import MultiheadAttention
from torch import nn

from fairseq_kd.models.gates import GatedLinear


class HeadAttention(MultiheadAttention):
    """fairseq's attention for any number of heads of a given size; beam search and its cache are fairseq's own.

    fairseq supports this shape for pruned models (`skip_embed_dim_check`), except for no head at all: that layer gives
    the bias of its output projection, whatever it is asked.
    """

    def __init__(self, embed_dim: int, head_dim: int, heads: int, gated: bool = False, **options):
        """embed_dim: width of queries and output. options: those of MultiheadAttention, such as kdim and dropout."""
        super().__init__(embed_dim, embed_dim // head_dim, **options)
        inner = heads * head_dim
        self.num_heads, self.embed_dim = heads, inner
        self._set_skip_embed_dim_check()
        self.out_proj = GatedLinear(heads, head_dim, embed_dim) if gated else nn.Linear(inner, embed_dim)
        if heads == 0:  # no empty matrices that no backward pass reaches: torch's DDP would wait for their gradients
            self.q_proj = self.k_proj = self.v_proj = None
            nn.init.zeros_(self.out_proj.bias)
            return
        self.q_proj = nn.Linear(embed_dim, inner)
        self.k_proj = nn.Linear(self.kdim, inner)
        self.v_proj = nn.Linear(self.vdim, inner)
        self.reset_parameters()

    @property
    def parameters_of_a_head(self) -> int:
        """Weights and biases that go with one head."""
        return self.head_dim * (self.q_proj.in_features + self.kdim + self.vdim + 3 + self.out_proj.out_features)

    def forward(self, query, key, value, **options):
        """As MultiheadAttention: query (T, B, C), key and value (S, B, C) -> ((T, B, C), attention weights or None)."""
        if self.num_heads == 0:
            # an empty slice of the query, so that the layer norm before it still takes part in the backward pass
            return self.out_proj(query[..., :0]), None
        return super().forward(query, key, value, **options)

    def upgrade_state_dict_named(self, state_dict: dict[str, torch.Tensor], name: str) -> None:
        """Nothing is old here: fairseq's attention would look for projections in one matrix."""


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

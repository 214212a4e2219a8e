"""Sublayers of students: attention with any number of heads, and gated linear units in feed-forward networks.

The attention can have fewer heads than embed_dim / head_dim, or none, and a gate on each head. The gated linear unit is
the first half of a feed-forward network (Shazeer 2020, "GLU Variants Improve Transformer").
"""

import torch
import torch.nn.functional as F
from fairseq import utils
from fairseq.modules import MultiheadAttention
from torch import nn

from fairseq_kd.models.gates import GatedLinear


class HeadAttention(MultiheadAttention):
    """fairseq's attention with any number of heads of a given size. Beam search and its cache are fairseq's own.

    fairseq supports this shape for pruned models (`skip_embed_dim_check`), except for an attention without heads. Its
    output is the bias of its output projection for every input.
    """

    def __init__(self, embed_dim: int, head_dim: int, heads: int, gated: bool = False, **options):
        """embed_dim: width of queries and output. options: of MultiheadAttention, such as kdim and dropout."""
        super().__init__(embed_dim, embed_dim // head_dim, **options)
        inner = heads * head_dim
        self.num_heads, self.embed_dim = heads, inner
        self._set_skip_embed_dim_check()
        self.out_proj = GatedLinear(heads, head_dim, embed_dim) if gated else nn.Linear(inner, embed_dim)
        if heads == 0:  # torch's DDP would wait for gradients of empty matrices, which no backward pass reaches
            self.q_proj = self.k_proj = self.v_proj = None
            nn.init.zeros_(self.out_proj.bias)
            return
        self.q_proj = nn.Linear(embed_dim, inner)
        self.k_proj = nn.Linear(self.kdim, inner)
        self.v_proj = nn.Linear(self.vdim, inner)
        self.reset_parameters()

    @property
    def parameters_per_head(self) -> int:
        """Number of weights and biases of one head."""
        return self.head_dim * (self.q_proj.in_features + self.kdim + self.vdim + 3 + self.out_proj.out_features)

    def forward(self, query, key, value, **options):
        """As MultiheadAttention: query (T, B, C), key and value (S, B, C) -> ((T, B, C), attention weights or None)."""
        if self.num_heads == 0:
            # an empty slice of the query keeps the layer norm before it in the backward pass
            return self.out_proj(query[..., :0]), None
        return super().forward(query, key, value, **options)

    def upgrade_state_dict_named(self, state_dict: dict[str, torch.Tensor], name: str) -> None:
        """Keep the weights unchanged. fairseq's attention would convert an old layout, which students never had."""


FFN_TYPES = ("plain", "glu")
# fairseq offers no swish (its function for it returns a class) and no sigmoid, the gate of the first GLU
MORE_ACTIVATIONS = {"swish": F.silu, "sigmoid": torch.sigmoid}


def activation(name: str):
    """The activation function of --activation-fn."""
    return MORE_ACTIVATIONS.get(name) or utils.get_activation_fn(name)


def inner_width(ffn_embed_dim: int, ffn_type: str) -> int:
    """The inner width that gives a network of `ffn_type` as many parameters as a plain one of width `ffn_embed_dim`.

    A GLU has three matrices instead of two, so its width is two thirds (Shazeer 2020, section 2), rounded to a multiple
    of 8.
    """
    return ffn_embed_dim if ffn_type == "plain" else max(8, 8 * round(ffn_embed_dim * 2 / 3 / 8))


class GatedLinearUnit(nn.Module):
    """x -> value(x) ⊙ activation(gate(x)). It replaces fairseq's fc1; fc2 follows as before.

    It has biases, as all of fairseq's transformer. Shazeer 2020 leaves them out.
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
    """Replaces fairseq's activation function after fc1, because a GLU has already applied it."""
    return x


def linears_of(first_half: nn.Module) -> list[nn.Linear]:
    """The linear layers of the first half of a feed-forward network: fc1, or value and gate of a GLU."""
    return [first_half.value, first_half.gate] if isinstance(first_half, GatedLinearUnit) else [first_half]

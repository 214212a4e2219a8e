"""Attention with fewer heads than embed_dim / head_dim, or none, and with a gate on each head."""

import torch
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

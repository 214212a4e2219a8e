"""What may differ from layer to layer of a student: inner widths of the feed-forward networks and numbers of heads."""

from dataclasses import dataclass

from fairseq_kd.core.errors import KDError
from fairseq_kd.models.sublayers import inner_width

GATED = ("heads", "channels")
# option -> (side, the default of each layer)
LAYER_OPTIONS = {
    "encoder_ffn_widths": "inner width of each encoder layer's feed-forward network",
    "decoder_ffn_widths": "inner width of each decoder layer's feed-forward network",
    "encoder_self_heads": "self-attention heads of each encoder layer",
    "decoder_self_heads": "self-attention heads of each decoder layer",
    "decoder_cross_heads": "encoder-decoder attention heads of each decoder layer",
}


@dataclass(frozen=True)
class LayerShape:
    """One layer. head_dim is that of the full model; `ffn_type` plain or glu; `gated`: of GATED, what has gates."""

    ffn_width: int
    self_heads: int
    cross_heads: int
    head_dim: int
    ffn_type: str
    gated: frozenset[str]

    def is_stock_attention(self, heads: int, embed_dim: int) -> bool:
        """Whether fairseq's own attention does it."""
        return "heads" not in self.gated and heads * self.head_dim == embed_dim


def layer_shapes(cfg, side: str, gated: frozenset[str]) -> list[LayerShape]:
    """The shape of each layer of side "encoder" or "decoder".

    cfg: a TransformerConfig with what `student.add_student_options` adds.
    Raises KDError when widths, heads or layers do not fit each other.
    """
    part = getattr(cfg, side)
    if part.attention_heads < 1 or part.embed_dim % part.attention_heads:
        raise KDError(
            f"--{side}-embed-dim {part.embed_dim} cannot be shared out to --{side}-attention-heads "
            f"{part.attention_heads}: the width must be a multiple of the number of heads"
        )
    width = inner_width(part.ffn_embed_dim, cfg.ffn_type)
    columns = {
        "ffn_widths": _of_each_layer(part, side, "ffn_widths", width),
        "self_heads": _of_each_layer(part, side, "self_heads", part.attention_heads),
        "cross_heads": _of_each_layer(part, side, "cross_heads", part.attention_heads),
    }
    special = gated or cfg.ffn_type != "plain" or any(getattr(part, name, None) for name in columns)
    if special and (cfg.quant_noise.pq > 0 or part.xformers_att_config):
        raise KDError(
            "--quant-noise-pq and --encoder-xformers-att-config do nothing in layers with gates, with GLU or with "
            "widths of their own: leave them out"
        )
    head_dim = part.embed_dim // part.attention_heads
    return [
        LayerShape(ffn, self_heads, cross_heads, head_dim, cfg.ffn_type, gated)
        for ffn, self_heads, cross_heads in zip(*columns.values(), strict=True)
    ]


def _of_each_layer(part, side: str, name: str, default: int) -> list[int]:
    text = getattr(part, name, None)
    if not text:
        return [default] * part.layers
    option = f"--{side}-{name.replace('_', '-')}"
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        raise KDError(f"{option} {text}: must be whole numbers with commas between, one a layer") from None
    if len(numbers) != part.layers:
        raise KDError(f"{option} {text} names {len(numbers)} layers, the {side} has {part.layers}")
    if min(numbers) < 0 or (name.endswith("heads") and max(numbers) > part.attention_heads):
        limit = f" and at most {part.attention_heads}" if name.endswith("heads") else ""
        raise KDError(f"{option} {text}: every number must be at least 0{limit}")
    return numbers

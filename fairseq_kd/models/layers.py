"""Encoder and decoder of fairseq's transformer whose layers can have different shapes, gated linear units and gates.

The shape of a layer is the inner width of its feed-forward network and its numbers of attention heads.
"""

import copy
from dataclasses import dataclass

from fairseq.distributed import fsdp_wrap
from fairseq.models.transformer import TransformerDecoderBase, TransformerEncoderBase
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase, TransformerEncoderLayerBase

from fairseq_kd.core.errors import KDError
from fairseq_kd.models.gates import GatedLinear
from fairseq_kd.models.sublayers import GatedLinearUnit, HeadAttention, activation, identity, inner_width

GATED = ("heads", "channels")
# option -> its help text; `layer_shapes` gives the default of each layer
LAYER_OPTIONS = {
    "encoder_ffn_widths": "inner width of each encoder layer's feed-forward network",
    "decoder_ffn_widths": "inner width of each decoder layer's feed-forward network",
    "encoder_self_heads": "self-attention heads of each encoder layer",
    "decoder_self_heads": "self-attention heads of each decoder layer",
    "decoder_cross_heads": "encoder-decoder attention heads of each decoder layer",
}


@dataclass(frozen=True)
class LayerShape:
    """The shape of one layer. head_dim: of the whole model. ffn_type: plain or glu. gated: the parts with gates."""

    ffn_width: int
    self_heads: int
    cross_heads: int
    head_dim: int
    ffn_type: str
    gated: frozenset[str]

    def is_stock_attention(self, heads: int, embed_dim: int) -> bool:
        """Whether fairseq's own attention has this number of heads without gates."""
        return "heads" not in self.gated and heads * self.head_dim == embed_dim


def layer_shapes(cfg, side: str, gated: frozenset[str]) -> list[LayerShape]:
    """The shape of each layer of a side, "encoder" or "decoder".

    cfg: a TransformerConfig with the options that `student.KDStudentModel.add_args` adds.
    Raises KDError when widths, heads and layers do not fit together.
    """
    part = getattr(cfg, side)
    if part.attention_heads < 1 or part.embed_dim % part.attention_heads:
        raise KDError(
            f"--{side}-embed-dim {part.embed_dim} cannot be divided among --{side}-attention-heads "
            f"{part.attention_heads}: the width must be a multiple of the number of heads"
        )
    width = inner_width(part.ffn_embed_dim, cfg.ffn_type)
    columns = {
        "ffn_widths": _per_layer(part, side, "ffn_widths", width),
        "self_heads": _per_layer(part, side, "self_heads", part.attention_heads),
        "cross_heads": _per_layer(part, side, "cross_heads", part.attention_heads),
    }
    special = gated or cfg.ffn_type != "plain" or any(getattr(part, name, None) for name in columns)
    if special and (cfg.quant_noise.pq > 0 or part.xformers_att_config):
        raise KDError(
            "--quant-noise-pq and --encoder-xformers-att-config have no effect in layers with gates, with --ffn-type "
            "glu or with widths per layer: leave them out"
        )
    head_dim = part.embed_dim // part.attention_heads
    return [
        LayerShape(ffn, self_heads, cross_heads, head_dim, cfg.ffn_type, gated)
        for ffn, self_heads, cross_heads in zip(*columns.values(), strict=True)
    ]


def _per_layer(part, side: str, name: str, default: int) -> list[int]:
    text = getattr(part, name, None)
    if not text:
        return [default] * part.layers
    option = f"--{side}-{name.replace('_', '-')}"
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        raise KDError(f"{option} {text}: must be whole numbers separated by commas, one per layer") from None
    if len(numbers) != part.layers:
        raise KDError(
            f"{option} {text} gives {len(numbers)} numbers, but the {side} has {part.layers} layers: give one per layer"
        )
    if min(numbers) < 0 or (name.endswith("heads") and max(numbers) > part.attention_heads):
        limit = f" and at most {part.attention_heads}" if name.endswith("heads") else ""
        raise KDError(f"{option} {text}: every number must be at least 0{limit}")
    return numbers


class _StudentLayer:
    """The parts that encoder and decoder layers build in the same way."""

    shape: LayerShape

    def _prepare(self, cfg, shape: LayerShape):
        """Set what the parts need, and return the configuration for fairseq's constructor, which builds the parts."""
        self.shape, self.activation = shape, activation(str(cfg.activation_fn))
        cfg = copy.copy(cfg)
        cfg.activation_fn = "linear"  # fairseq does not know MORE_ACTIVATIONS; `_finish` sets the function
        return cfg

    def _finish(self):
        self.activation_fn = identity if self.shape.ffn_type == "glu" else self.activation

    def build_fc1(self, input_dim, output_dim, q_noise, qn_block_size):
        """The first linear layer. output_dim, the width in the whole model, is replaced by the width of this layer."""
        if self.shape.ffn_type == "glu":
            return GatedLinearUnit(input_dim, self.shape.ffn_width, self.activation)
        return super().build_fc1(input_dim, self.shape.ffn_width, q_noise, qn_block_size)

    def build_fc2(self, input_dim, output_dim, q_noise, qn_block_size):
        """The second linear layer. input_dim is replaced as output_dim in `build_fc1`."""
        if "channels" in self.shape.gated:
            return GatedLinear(self.shape.ffn_width, 1, output_dim)
        return super().build_fc2(self.shape.ffn_width, output_dim, q_noise, qn_block_size)

    def _head_attention(self, embed_dim, heads, cfg, **options):
        options |= {"gated": "heads" in self.shape.gated, "dropout": cfg.attention_dropout}
        return HeadAttention(embed_dim, self.shape.head_dim, heads, **options)


class StudentEncoderLayer(_StudentLayer, TransformerEncoderLayerBase):
    """fairseq's encoder layer with the given shape."""

    def __init__(self, cfg, shape: LayerShape, return_fc=False):
        super().__init__(self._prepare(cfg, shape), return_fc)
        self._finish()

    def build_self_attention(self, embed_dim, cfg):
        """fairseq's own attention if the layer has all heads and no gates, else `HeadAttention`."""
        if self.shape.is_stock_attention(self.shape.self_heads, embed_dim):
            return super().build_self_attention(embed_dim, cfg)
        return self._head_attention(embed_dim, self.shape.self_heads, cfg, self_attention=True)


class StudentDecoderLayer(_StudentLayer, TransformerDecoderLayerBase):
    """fairseq's decoder layer with the given shape."""

    def __init__(self, cfg, shape: LayerShape, no_encoder_attn=False):
        super().__init__(self._prepare(cfg, shape), no_encoder_attn)
        self._finish()

    def build_self_attention(self, embed_dim, cfg, add_bias_kv=False, add_zero_attn=False):
        """fairseq's own attention if the layer has all heads and no gates, else `HeadAttention`."""
        if self.shape.is_stock_attention(self.shape.self_heads, embed_dim):
            return super().build_self_attention(embed_dim, cfg, add_bias_kv, add_zero_attn)
        options = {"self_attention": not cfg.cross_self_attention}
        return self._head_attention(embed_dim, self.shape.self_heads, cfg, **options)

    def build_encoder_attention(self, embed_dim, cfg):
        """fairseq's own attention if the layer has all heads and no gates, else `HeadAttention`."""
        if self.shape.is_stock_attention(self.shape.cross_heads, embed_dim):
            return super().build_encoder_attention(embed_dim, cfg)
        options = {"kdim": cfg.encoder.embed_dim, "vdim": cfg.encoder.embed_dim, "encoder_decoder_attention": True}
        return self._head_attention(embed_dim, self.shape.cross_heads, cfg, **options)


class StudentEncoder(TransformerEncoderBase):
    """fairseq's encoder with StudentEncoderLayers."""

    def __init__(self, cfg, dictionary, embed_tokens, return_fc=False, gated=frozenset()):
        self.shapes = iter(layer_shapes(cfg, "encoder", gated))  # `build_encoder_layer` takes the next one
        super().__init__(cfg, dictionary, embed_tokens, return_fc)

    def build_encoder_layer(self, cfg):
        """The next layer, in the next shape."""
        return _wrapped(StudentEncoderLayer(cfg, next(self.shapes), self.return_fc), cfg)


class StudentDecoder(TransformerDecoderBase):
    """fairseq's decoder with StudentDecoderLayers."""

    def __init__(self, cfg, dictionary, embed_tokens, no_encoder_attn=False, gated=frozenset()):
        self.shapes = iter(layer_shapes(cfg, "decoder", gated))
        super().__init__(cfg, dictionary, embed_tokens, no_encoder_attn)

    def build_decoder_layer(self, cfg, no_encoder_attn=False):
        """The next layer, in the next shape."""
        return _wrapped(StudentDecoderLayer(cfg, next(self.shapes), no_encoder_attn), cfg)


def _wrapped(layer, cfg):
    """The layer with the wrappers that fairseq's `build_encoder_layer` adds."""
    if cfg.checkpoint_activations:
        layer = checkpoint_wrapper(layer, offload_to_cpu=cfg.offload_activations)
    return fsdp_wrap(layer, min_num_params=0 if cfg.checkpoint_activations else cfg.min_params_to_wrap)

"""Encoder and decoder of fairseq's transformer, with layers that may differ in shape, have GLUs and gates."""

import copy

from fairseq.distributed import fsdp_wrap
from fairseq.models.transformer import TransformerDecoderBase, TransformerEncoderBase
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase, TransformerEncoderLayerBase

from fairseq_kd.models.gates import GatedLinear
from fairseq_kd.models.shape import LayerShape, layer_shapes
from fairseq_kd.models.sublayers import GatedLinearUnit, HeadAttention, activation, identity


class _StudentLayer:
    """How both kinds of layers build their parts."""

    shape: LayerShape

    def _prepare(self, cfg, shape: LayerShape):
        """Set what the parts need before fairseq's constructor builds them; the configuration for that constructor."""
        self.shape, self.activation = shape, activation(str(cfg.activation_fn))
        cfg = copy.copy(cfg)
        cfg.activation_fn = "linear"  # fairseq does not know all of ours; `_finish` sets it
        return cfg

    def _finish(self):
        self.activation_fn = identity if self.shape.ffn_type == "glu" else self.activation

    def build_fc1(self, input_dim, output_dim, q_noise, qn_block_size):
        """output_dim is that of the whole model; the layer has its own."""
        if self.shape.ffn_type == "glu":
            return GatedLinearUnit(input_dim, self.shape.ffn_width, self.activation)
        return super().build_fc1(input_dim, self.shape.ffn_width, q_noise, qn_block_size)

    def build_fc2(self, input_dim, output_dim, q_noise, qn_block_size):
        """As `build_fc1`."""
        if "channels" in self.shape.gated:
            return GatedLinear(self.shape.ffn_width, 1, output_dim)
        return super().build_fc2(self.shape.ffn_width, output_dim, q_noise, qn_block_size)

    def _head_attention(self, embed_dim, heads, cfg, **options):
        options |= {"gated": "heads" in self.shape.gated, "dropout": cfg.attention_dropout}
        return HeadAttention(embed_dim, self.shape.head_dim, heads, **options)


class StudentEncoderLayer(_StudentLayer, TransformerEncoderLayerBase):
    """fairseq's encoder layer in the given shape."""

    def __init__(self, cfg, shape: LayerShape, return_fc=False):
        super().__init__(self._prepare(cfg, shape), return_fc)
        self._finish()

    def build_self_attention(self, embed_dim, cfg):
        """fairseq's own where all heads are there."""
        if self.shape.is_stock_attention(self.shape.self_heads, embed_dim):
            return super().build_self_attention(embed_dim, cfg)
        return self._head_attention(embed_dim, self.shape.self_heads, cfg, self_attention=True)


class StudentDecoderLayer(_StudentLayer, TransformerDecoderLayerBase):
    """fairseq's decoder layer in the given shape."""

    def __init__(self, cfg, shape: LayerShape, no_encoder_attn=False):
        super().__init__(self._prepare(cfg, shape), no_encoder_attn)
        self._finish()

    def build_self_attention(self, embed_dim, cfg, add_bias_kv=False, add_zero_attn=False):
        """fairseq's own where all heads are there."""
        if self.shape.is_stock_attention(self.shape.self_heads, embed_dim):
            return super().build_self_attention(embed_dim, cfg, add_bias_kv, add_zero_attn)
        options = {"self_attention": not cfg.cross_self_attention}
        return self._head_attention(embed_dim, self.shape.self_heads, cfg, **options)

    def build_encoder_attention(self, embed_dim, cfg):
        """fairseq's own where all heads are there."""
        if self.shape.is_stock_attention(self.shape.cross_heads, embed_dim):
            return super().build_encoder_attention(embed_dim, cfg)
        options = {"kdim": cfg.encoder.embed_dim, "vdim": cfg.encoder.embed_dim, "encoder_decoder_attention": True}
        return self._head_attention(embed_dim, self.shape.cross_heads, cfg, **options)


class StudentEncoder(TransformerEncoderBase):
    """fairseq's encoder with StudentEncoderLayers."""

    def __init__(self, cfg, dictionary, embed_tokens, return_fc=False, gated=frozenset()):
        self.shapes = iter(layer_shapes(cfg, "encoder", gated))  # taken one by one while fairseq builds the layers
        super().__init__(cfg, dictionary, embed_tokens, return_fc)

    def build_encoder_layer(self, cfg):
        """The next layer."""
        return _wrapped(StudentEncoderLayer(cfg, next(self.shapes), self.return_fc), cfg)


class StudentDecoder(TransformerDecoderBase):
    """fairseq's decoder with StudentDecoderLayers."""

    def __init__(self, cfg, dictionary, embed_tokens, no_encoder_attn=False, gated=frozenset()):
        self.shapes = iter(layer_shapes(cfg, "decoder", gated))
        super().__init__(cfg, dictionary, embed_tokens, no_encoder_attn)

    def build_decoder_layer(self, cfg, no_encoder_attn=False):
        """The next layer."""
        return _wrapped(StudentDecoderLayer(cfg, next(self.shapes), no_encoder_attn), cfg)


def _wrapped(layer, cfg):
    """As fairseq's `build_encoder_layer` does."""
    if cfg.checkpoint_activations:
        layer = checkpoint_wrapper(layer, offload_to_cpu=cfg.offload_activations)
    return fsdp_wrap(layer, min_num_params=0 if cfg.checkpoint_activations else cfg.min_params_to_wrap)

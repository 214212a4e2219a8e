"""Convert a fairseq transformer, or a student, to CTranslate2's specification of the same model.

CTranslate2 reads inner widths from the weights, so each layer may have its own widths. But it has one number of heads
for the encoder and one for the decoder. A layer with fewer heads gets heads of zeros: their values and their columns of
the output projection are 0, so they add 0. An attention without heads becomes an attention of such heads only. A
feed-forward network gets channels of zeros up to a multiple of 8, because the 8-bit products of GPUs need a multiple of
4.

Every parameter of the model must be used in the end. A remaining parameter has no counterpart, so the model is refused.
"""

import numpy as np
from ctranslate2.specs import common_spec, transformer_spec
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY
from fairseq.models.bart import BARTModel
from fairseq.models.transformer import TransformerModel, TransformerModelBase
from fairseq.models.transformer_align import TransformerAlignModel

from fairseq_kd.core.errors import KDError
from fairseq_kd.models.adaptive import KDAdaptiveModel
from fairseq_kd.models.student import KDStudentModel
from fairseq_kd.models.sublayers import GatedLinearUnit

# exactly these: a subclass may compute another function of the same weights
CONVERTED = (TransformerModel, TransformerModelBase, TransformerAlignModel, BARTModel, KDStudentModel)
ACTIVATIONS = {
    "relu": common_spec.Activation.RELU,
    "gelu": common_spec.Activation.GELU,
    "gelu_fast": common_spec.Activation.GELUTanh,
    "gelu_accurate": common_spec.Activation.GELUTanh,
    "swish": common_spec.Activation.SWISH,
    "tanh": common_spec.Activation.Tanh,
    "sigmoid": common_spec.Activation.Sigmoid,
}
CHANNELS = 8  # inner widths are padded to a multiple of it
ATTENTIONS = {"self_attn": "self_attention", "encoder_attn": "attention"}  # fairseq's name -> CTranslate2's


class Parameters:
    """The parameters of a model by name, as float32 arrays. `unused` holds those that were not yet taken."""

    def __init__(self, model):
        named = model.named_parameters(remove_duplicate=False)
        self.unused = {name: value.detach().float().cpu().numpy() for name, value in named}

    def take(self, name: str) -> np.ndarray:
        """The parameter, which then counts as used. Raises KDError when the model does not have it."""
        if name not in self.unused:
            raise KDError(f"CTranslate2 cannot express this model: it has no {name}")
        return self.unused.pop(name)

    def linear(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Weight (out, in) and bias (out,) of a linear layer."""
        return self.take(f"{name}.weight"), self.take(f"{name}.bias")

    def norm(self, spec, name: str) -> None:
        """Fill in a LayerNormSpec."""
        spec.gamma, spec.beta = self.linear(name)


def specify(model, source_vocabulary: list[str], target_vocabulary: list[str]) -> transformer_spec.TransformerSpec:
    """The specification of a model in eval mode, with its vocabularies, ready to be validated and saved.

    The vocabularies: `runtime.symbols` or `runtime.numbers`. Raises KDError that names the part which CTranslate2
    cannot express.
    """
    check_options(model)
    parameters = Parameters(model)
    spec = transformer_spec.TransformerSpec(
        _side(parameters, model.encoder, "encoder"), _side(parameters, model.decoder, "decoder")
    )
    if unused := parameters.unused:
        others = f" and {len(unused) - 1} more parameters" if len(unused) > 1 else ""
        raise KDError(f"CTranslate2 cannot express {min(unused)}{others} of this model")
    spec.register_source_vocabulary(source_vocabulary)
    spec.register_target_vocabulary(target_vocabulary)
    spec.config.decoder_start_token = spec.config.eos_token
    spec.config.add_source_eos = True
    return spec


def check_options(model) -> None:
    """Raises KDError for options and parts, other than parameters, that have no counterpart in CTranslate2."""
    cfg = model.cfg
    _check_kind(type(model))
    _check_activation(str(cfg.activation_fn))
    xformers = cfg.encoder.xformers_att_config or cfg.decoder.xformers_att_config
    for option, value in (
        ("--no-token-positional-embeddings", cfg.no_token_positional_embeddings),
        ("--cross-self-attention", cfg.cross_self_attention),
        ("--no-cross-attention", cfg.no_cross_attention),
        ("--encoder-xformers-att-config or --decoder-xformers-att-config", xformers),
    ):
        if value:
            raise KDError(f"CTranslate2 cannot express a model with {option}")


def check_architecture(options) -> None:
    """Raises KDError when CTranslate2 has no counterpart of the model that fairseq builds from these options.

    options: of the model, as fairseq-train parses them or as a checkpoint keeps them. Its weights show the rest.
    """
    name = getattr(options, "arch", None) or options._name
    _check_kind(ARCH_MODEL_REGISTRY.get(name) or MODEL_REGISTRY[name])
    _check_activation(str(getattr(options, "activation_fn", "relu")))


def _check_kind(kind: type) -> None:
    if kind is KDAdaptiveModel:
        raise KDError("CTranslate2 cannot express gates: cut them out first, with fairseq-kd compact")
    if kind not in CONVERTED:
        raise KDError(f"CTranslate2 cannot express a {kind.__name__}: it must be a transformer or a kd_student")


def _check_activation(name: str) -> None:
    if name not in ACTIVATIONS:
        raise KDError(
            f"CTranslate2 cannot express the activation function of its feed-forward networks: --activation-fn is "
            f"{name}, it must be one of {', '.join(ACTIVATIONS)}"
        )


def _side(parameters: Parameters, module, side: str):
    """The specification of a fairseq encoder or decoder."""
    attentions = [
        getattr(layer, name) for layer in module.layers for name in ATTENTIONS if getattr(layer, name, None) is not None
    ]
    cfg = getattr(module.cfg, side)
    heads = max([1, *(attention.num_heads for attention in attentions)])
    kind = transformer_spec.TransformerEncoderSpec if side == "encoder" else transformer_spec.TransformerDecoderSpec
    spec = kind(
        len(module.layers),
        heads,
        pre_norm=cfg.normalize_before,
        no_final_norm=module.layer_norm is None,
        activation=ACTIVATIONS[str(module.cfg.activation_fn)],
        layernorm_embedding=module.layernorm_embedding is not None,
        ffn_glu=any(isinstance(layer.fc1, GatedLinearUnit) for layer in module.layers),
        head_dim=cfg.embed_dim // cfg.attention_heads,
    )
    embeddings = spec.embeddings[0] if side == "encoder" else spec.embeddings
    embeddings.weight = parameters.take(f"{side}.embed_tokens.weight")
    spec.scale_embeddings = module.embed_scale
    spec.position_encodings.encodings = _positions(parameters, module.embed_positions, side)
    if module.layernorm_embedding is not None:
        parameters.norm(spec.layernorm_embedding, f"{side}.layernorm_embedding")
    if module.layer_norm is not None:
        parameters.norm(spec.layer_norm, f"{side}.layer_norm")
    for number, (layer_spec, layer) in enumerate(zip(spec.layer, module.layers, strict=True)):
        _layer(parameters, layer_spec, layer, f"{side}.layers.{number}", heads)
    if side == "decoder":
        spec.projection.weight = parameters.take("decoder.output_projection.weight")
    return spec


def _positions(parameters: Parameters, module, side: str) -> np.ndarray:
    """The table of positions (positions, embed_dim), without the rows that fairseq reserves for padding."""
    name = f"{side}.embed_positions.weight"
    table = parameters.take(name) if name in parameters.unused else module.weights.float().cpu().numpy()
    return table[module.padding_idx + 1 :]


def _layer(parameters: Parameters, spec, layer, name: str, heads: int) -> None:
    for theirs, ours in ATTENTIONS.items():
        if hasattr(spec, ours):
            _attention(parameters, getattr(spec, ours), getattr(layer, theirs), f"{name}.{theirs}", heads)
            parameters.norm(getattr(spec, ours).layer_norm, f"{name}.{theirs}_layer_norm")
    parameters.norm(spec.ffn.layer_norm, f"{name}.final_layer_norm")
    if isinstance(layer.fc1, GatedLinearUnit):
        first = {"linear_0": f"{name}.fc1.gate", "linear_0_noact": f"{name}.fc1.value"}
    else:
        first = {"linear_0": f"{name}.fc1"}
    width = CHANNELS * max(1, -(-layer.fc2.in_features // CHANNELS))
    for ours, theirs in first.items():
        weight, bias = parameters.linear(theirs)
        _set(getattr(spec.ffn, ours), _padded(weight, width, 0), _padded(bias, width, 0))
    weight, bias = parameters.linear(f"{name}.fc2")
    _set(spec.ffn.linear_1, _padded(weight, width, 1), bias)


def _attention(parameters: Parameters, spec, module, name: str, heads: int) -> None:
    """Fill in an attention with `heads` heads. CTranslate2 stores some of its projections in one matrix."""
    width = heads * module.head_dim
    weight, bias = parameters.linear(f"{name}.out_proj")
    _set(spec.linear[-1], _padded(weight, width, 1), bias)
    projections = []
    for projection, columns in (("q", len(bias)), ("k", module.kdim), ("v", module.vdim)):
        weight, bias = np.zeros((0, columns), np.float32), np.zeros(0, np.float32)
        if module.num_heads:
            weight, bias = parameters.linear(f"{name}.{projection}_proj")
        projections.append((_padded(weight, width, 0), _padded(bias, width, 0)))
    parts = [projections] if len(spec.linear) == 2 else [projections[:1], projections[1:]]
    for linear, part in zip(spec.linear[:-1], parts, strict=True):  # the last is the output projection
        _set(linear, *(np.concatenate(arrays) for arrays in zip(*part, strict=True)))


def _padded(array: np.ndarray, size: int, axis: int) -> np.ndarray:
    """The array with zeros added at the end of an axis, up to `size`."""
    missing = [(0, size - array.shape[axis] if number == axis else 0) for number in range(array.ndim)]
    return np.pad(array, missing)


def _set(spec, weight: np.ndarray, bias: np.ndarray) -> None:
    spec.weight, spec.bias = weight, bias

"""Which models give decoder features that one matrix turns into logits: what the fused loss and a lean teacher need."""

import inspect

import torch
from fairseq.models import FairseqDecoder
from fairseq.models.transformer import TransformerDecoderBase


def unwrapped(model):
    """The model inside the wrappers that fairseq puts around it for several processes."""
    while isinstance(getattr(model, "module", None), torch.nn.Module):
        model = model.module
    return model


def output_projection(model) -> torch.Tensor | None:
    """The matrix (V, d) with logits = features @ matrix.T, or None when the model computes them in another way.

    Then `model(..., features_only=True)[0]` are the features (B, T, d). None also where a wrapper for several processes
    does not let a parameter be used outside of the model's forward pass.
    """
    weight = _weight(unwrapped(model))
    while weight is not None and isinstance(inner := getattr(model, "module", None), torch.nn.Module):
        if "FullySharded" in type(model).__name__:
            return None
        if getattr(model, "find_unused_parameters", False) and not _is_tied(unwrapped(model).decoder, weight):
            return None  # DDP would call it unused, and then be surprised by its gradient
        model = inner
    return weight


def _is_tied(decoder, weight) -> bool:
    return getattr(getattr(decoder, "embed_tokens", None), "weight", None) is weight


def _weight(model) -> torch.Tensor | None:
    decoder = getattr(model, "decoder", None)
    if not isinstance(decoder, TransformerDecoderBase) or getattr(decoder, "adaptive_softmax", None) is not None:
        return None
    stock = (
        type(decoder).output_layer is TransformerDecoderBase.output_layer
        and type(decoder).get_normalized_probs_scriptable is FairseqDecoder.get_normalized_probs_scriptable
        and "features_only" in inspect.signature(type(model).forward).parameters
    )
    layer = decoder.output_projection
    return layer.weight if stock and isinstance(layer, torch.nn.Linear) and layer.bias is None else None

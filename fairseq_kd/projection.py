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

    Then `model(..., features_only=True)[0]` are the features (B, T, d).
    """
    model = unwrapped(model)
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

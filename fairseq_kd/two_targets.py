"""The student's output for two targets of the same sources: one pass of the encoder, two of the decoder."""

import contextlib

from fairseq.models import FairseqEncoderDecoderModel
from fairseq.models.transformer import TransformerModelBase

from fairseq_kd.projection import unwrapped

STOCK = (FairseqEncoderDecoderModel.forward, TransformerModelBase.forward)


def two_passes(model, net_input, prev_output_tokens, **options):
    """(output for the target of net_input, output for that of prev_output_tokens (B, T2), the encoder's output).

    options: keyword arguments of the model's forward pass, such as features_only. The first pass goes through the model
    as it is, in the wrapper of a distributed training if there is one, which must see a forward pass; the second calls
    the decoder with the encoder's output of the first. Gradients are those of two whole passes; where a model departs
    from fairseq's encoder-decoder, or is fully sharded, two whole passes are made.
    """
    with _encoder_outputs(model) as outputs:
        first = model(**net_input, **options)
        if not _shares_encoder(model):
            second = model(**net_input | {"prev_output_tokens": prev_output_tokens}, **options)
    encoder_out = outputs[0] if outputs else None
    if _shares_encoder(model):
        second = unwrapped(model).decoder(prev_output_tokens, encoder_out=encoder_out, **options)
    return first, second, encoder_out


def _shares_encoder(model) -> bool:
    """Whether the forward pass is: encoder, then decoder with its output, and both can be called by themselves."""
    while model is not (inner := getattr(model, "module", model)):
        if "FullySharded" in type(model).__name__:
            return False
        model = inner
    return type(model).forward in STOCK


@contextlib.contextmanager
def _encoder_outputs(model):
    """A list that receives what the encoder returns during the block; it stays empty where there is no encoder."""
    encoder, outputs = getattr(unwrapped(model), "encoder", None), []
    if encoder is None:
        yield outputs
        return
    handle = encoder.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()

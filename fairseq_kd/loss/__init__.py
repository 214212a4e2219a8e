"""Distillation losses as pure functions of tensors, without fairseq."""

from fairseq_kd.core.public import lazily

_PLACES = {
    "DIVERGENCES": "divergences",
    "DenseSignal": "signal",
    "Divergence": "divergences",
    "Losses": "objective",
    "MixtureSignal": "mixture",
    "Objective": "objective",
    "TopKSignal": "signal",
    "fused_loss": "fused",
    "make_divergence": "divergences",
    "reference_losses": "objective",
}
__all__, __getattr__, __dir__ = lazily(__name__, _PLACES)

"""`--autocast` in a training: where it applies, and which students it does not fit."""

import contextlib

import torch

from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.linear import pays
from fairseq_kd.inference.precision import OFF, autocast, check_bfloat16
from fairseq_kd.loss.signal import ROWS_AT_A_TIME


def training_precision(model, dtype: str):
    """The context of the student's forward pass and the loss. Validation is in the precision of the weights.

    dtype: one of `precision.AUTOCAST`. Raises KDError when --autocast has no effect on this student, and if its device
    has no instructions for it.
    """
    if dtype == OFF or not model.training:
        return contextlib.nullcontext()
    parameter = next(model.parameters())
    kind = parameter.device.type
    if parameter.dtype != torch.float32 or torch.is_autocast_enabled(kind):
        raise KDError(
            f"--autocast {dtype} has no effect with --fp16, --bf16 or --amp, which already choose the type of the "
            "products: give one of them"
        )
    check_bfloat16(parameter.device, f"--autocast {dtype}")
    return autocast(kind, dtype)


def around_update(model, dtype: str):
    """The context of a forward and backward pass: activation checkpointing runs layers again in the backward pass.

    On CUDA fairseq itself runs them again in the same precision.
    """
    on_cpu = next(model.parameters()).device.type == "cpu"
    return autocast("cpu", dtype) if on_cpu and dtype != OFF else contextlib.nullcontext()


def loss_dtype(model, dtype: str, features: torch.Tensor, projection: torch.Tensor) -> torch.dtype | None:
    """The type of the loss's products for features (N, d) and projection (V, d); None: not chosen by --autocast."""
    if dtype == OFF or not model.training:
        return None
    large = features.device.type != "cpu" or pays(min(len(features), ROWS_AT_A_TIME) * projection.numel())
    return torch.bfloat16 if large else None

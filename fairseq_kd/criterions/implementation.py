"""Which of the two computations of the loss a student allows."""

from fairseq_kd.errors import KDError
from fairseq_kd.projection import output_projection
from fairseq_kd.teacher.supported import check_model


def choose_implementation(model, cfg) -> str:
    """ "fused" or "reference": what the student's architecture allows and --kd-implementation asks for.

    Raises KDError for a student that is not autoregressive or has an adaptive softmax, and when what is asked for is
    not possible.
    """
    check_model(model, "the student")
    _refuse_adaptive_softmax(model)
    projection, asked = output_projection(model), str(cfg.kd_implementation)
    fits = projection is not None
    needs = asked == "fused" or str(cfg.kd_matmul_dtype) != "same"
    if needs and not fits:
        raise KDError(
            "--kd-implementation fused and --kd-matmul-dtype do not fit: the student has no output projection "
            "that can be applied by itself (it is not one of fairseq's transformers, or it is wrapped with "
            "--find-unused-parameters or fully sharded); leave them out"
        )
    if fits and str(cfg.kd_matmul_dtype) == str(projection.dtype).removeprefix("torch."):
        raise KDError(
            f"--kd-matmul-dtype {cfg.kd_matmul_dtype} has no effect: the student itself has that type (--bf16)"
        )
    return "fused" if fits and asked != "reference" else "reference"


def _refuse_adaptive_softmax(model) -> None:
    if getattr(getattr(model, "decoder", None), "adaptive_softmax", None) is not None:
        raise KDError(
            "the student has an adaptive softmax (--adaptive-softmax-cutoff), which gives no distribution over the "
            "whole vocabulary to compare with the teacher's; train it without"
        )

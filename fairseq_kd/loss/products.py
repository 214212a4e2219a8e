"""Matrix products whose result is wider than the matrices: float32 from float16 or bfloat16.

CUDA multiplies such matrices with float32 sums and can also return them (`out_dtype`, torch 2.8 and later). Elsewhere
the result of bfloat16 is rounded to bfloat16, and float16 is multiplied in float32, because a sum in float16 ends at
65,504. The scale of a float16 gradient therefore never depends on the number of summed rows.
"""

import functools
import logging

import torch

logger = logging.getLogger(__name__)


def padded_rows(count: int) -> int:
    """The number of rows of a bfloat16 matrix on a CPU that holds `count` rows: at most a sixteenth more, if above 256.

    oneDNN compiles kernels for each shape. With this rule a training soon has met all its shapes.
    """
    step = max(16, 2 ** ((count - 1).bit_length() - 5)) if count > 1 else 16
    return -(-count // step) * step


def narrowed(rows: torch.Tensor) -> torch.Tensor:
    """Rows (n, d) in bfloat16, followed by rows of zeros (`padded_rows`)."""
    result = torch.empty(padded_rows(len(rows)), rows.size(1), dtype=torch.bfloat16, device=rows.device)
    result[: len(rows)].copy_(rows)
    result[len(rows) :].zero_()
    return result


def multiply(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, narrow: torch.Tensor | None = None) -> torch.Tensor:
    """Write the first rows of a b to `out`, which has the type of a and b, or float32 if they are half precision.

    a may have more rows than out only where `pads` is true. narrow: memory for a product of that type. Returns out.
    """
    if a.dtype == out.dtype:
        return torch.mm(a, b, out=out)
    if returns_float32(a.device.type):
        return torch.mm(a, b, out_dtype=out.dtype, out=out)
    if narrow is None or not pads(a):
        return out.copy_(_narrow(a, b)[: len(out)])
    return out.copy_(torch.mm(a, b, out=narrow)[: len(out)])


def pads(rows: torch.Tensor) -> bool:
    """Whether products with this matrix get rows of zeros (`narrowed`): bfloat16 on a CPU."""
    return rows.dtype == torch.bfloat16 and rows.device.type == "cpu"


def accumulate(out: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Add a b to `out`; types as in `multiply`."""
    if a.dtype == out.dtype:
        out.addmm_(a, b)
    elif returns_float32(a.device.type):
        torch.addmm(out, a, b, out_dtype=out.dtype, out=out)
    else:
        out += _narrow(a, b)


def _narrow(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a.float() @ b.float() if a.dtype == torch.float16 else a @ b


@functools.cache
def returns_float32(device: str) -> bool:
    """Whether this torch multiplies half-precision matrices on such a device with a float32 result."""
    if device != "cuda":
        return False
    try:
        ones = torch.ones(16, 16, dtype=torch.bfloat16, device=device)
        total = torch.zeros(16, 16, device=device)
        torch.mm(ones, ones, out_dtype=torch.float32, out=total)
        torch.addmm(total, ones, ones, out_dtype=torch.float32, out=total)
        return bool((total == 32).all())
    except (TypeError, RuntimeError, NotImplementedError) as error:
        logger.info(
            f"torch {torch.__version__} has no half-precision product with a float32 result on {device} "
            f"({str(error).splitlines()[0]}): the loss rounds its products to half precision"
        )
        return False

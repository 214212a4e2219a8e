"""Matrix products whose result is wider than the matrices: float32 from float16 or bfloat16.

CUDA multiplies such matrices with float32 sums and can also return them (`out_dtype`, torch 2.8 and later). Elsewhere
the result of bfloat16 is rounded to bfloat16, and float16 is multiplied in float32, because a sum in float16 ends at
65,504. The scale of a float16 gradient therefore never depends on the number of summed rows.
"""

import functools
import logging

import torch

logger = logging.getLogger(__name__)


def multiply(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Write a b to `out`, which has the type of a and b, or float32 if they are half precision. Returns out."""
    if a.dtype == out.dtype:
        return torch.mm(a, b, out=out)
    if returns_float32(a.device.type):
        return torch.mm(a, b, out_dtype=out.dtype, out=out)
    return out.copy_(_narrow(a, b))


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

"""A linear layer on the CPU whose products are in bfloat16, with float32 inputs, weights, results and gradients.

Torch's autocast leaves the results of its products in bfloat16. On a CPU the operations that follow are then slower
than in float32: the backward pass of attention ten times, and the sum of a bfloat16 and a float32 tensor (each residual
connection) also ten times. So here only the products are in bfloat16, and each operand is rounded once: the input and
the weights in the forward pass, which keeps them for the backward pass, and the gradient in the backward pass.

oneDNN compiles its kernels for each shape, which takes longer than a product does, and almost every batch has another
number of tokens. So the number of rows is rounded up, with rows of zeros (`products.padded_rows`).
"""

import contextlib

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from fairseq_kd.loss.products import narrowed

# Products below this size (rows x inputs x outputs) stay in float32, because rounding takes longer than bfloat16 gains.
SMALLEST_PRODUCT = 2**25
float32_linear = F.linear


def pays(operations: int) -> bool:
    """Whether a product of this size (rows x inputs x outputs) is faster in bfloat16 on a CPU."""
    return operations >= SMALLEST_PRODUCT


class _Linear(torch.autograd.Function):
    """x wᵀ + b, with x (..., in), w (out, in) and b (out,) or None."""

    @staticmethod
    def forward(ctx, x, weight, bias, rows):
        """Rows: x as the result of `narrowed`."""
        narrow_weight = weight.to(torch.bfloat16)
        ctx.save_for_backward(rows, narrow_weight)
        ctx.shape, ctx.has_bias = x.shape, bias is not None
        if bias is None:
            product = rows @ narrow_weight.t()
        else:
            product = torch.addmm(bias.to(torch.bfloat16), rows, narrow_weight.t())
        return _widened(product, (*x.shape[:-1], len(weight)))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        """Gradients of x, weight and bias, float32; the bias's without rounding."""
        rows, weight = ctx.saved_tensors
        wide = gradient.reshape(-1, gradient.size(-1))
        narrow = narrowed(wide)
        d_x = _widened(narrow @ weight, ctx.shape) if ctx.needs_input_grad[0] else None
        d_weight = (narrow.t() @ rows).float() if ctx.needs_input_grad[1] else None
        d_bias = wide.sum(dim=0) if ctx.has_bias and ctx.needs_input_grad[2] else None
        return d_x, d_weight, d_bias, None


def _widened(product: torch.Tensor, shape) -> torch.Tensor:
    """The first rows of a product as a float32 tensor of this shape."""
    result = torch.empty(shape, dtype=torch.float32)
    rows = result.view(-1, shape[-1])
    rows.copy_(product[: len(rows)])
    return result


class _NarrowLinear:
    """A function with the arguments of `F.linear`. It keeps the last rounded input, because several layers share it."""

    def __init__(self):
        self._input = self._version = self._rows = None

    def __call__(self, x, weight, bias=None):
        """Products in float32 for other types, other devices and small products."""
        wide = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"
        if not wide or not pays(x.numel() * weight.size(0)):
            return float32_linear(x, weight, bias)
        return _Linear.apply(x, weight, bias, self._narrowed(x))

    def _narrowed(self, x):
        if self._input is not x or self._version != x._version:
            self._input, self._version = x, x._version
            with torch.no_grad():
                self._rows = narrowed(x.reshape(-1, x.size(-1)))
        return self._rows


@contextlib.contextmanager
def linear_products(narrow: bool):
    """Inside the block `F.linear` multiplies in bfloat16 on the CPU, or as torch does. Blocks can be nested."""
    before, F.linear = F.linear, _NarrowLinear() if narrow else float32_linear
    try:
        yield
    finally:
        F.linear = before

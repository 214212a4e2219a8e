"""Dropout on the CPU with masks from a vectorised generator.

torch draws the mask of a CPU tensor one number at a time, from its Mersenne Twister. Here numpy's SFC64 draws 64 random
bits per step, which decide on four elements. The seed of each mask comes from torch's default generator, so everything
that sets or restores that generator (--seed, a resumed training, activation checkpointing, one process per rank) has
the effect that it has on torch's own dropout.
"""

import numpy as np
import torch
from fairseq.modules import FairseqDropout
from torch import nn
from torch.autograd.function import once_differentiable

LEVELS = 2**16  # a 16-bit number decides on each element
LOWEST = -(2**15)  # of such a number


def random_numbers(shape: torch.Size) -> torch.Tensor:
    """Uniform int16 numbers of this shape. One number of torch's default generator is the seed."""
    seed = int(torch.randint(2**63 - 1, ()))
    count = shape.numel()
    words = np.random.SFC64(seed).random_raw(-(-count // 4))
    return torch.from_numpy(words.view(np.int16))[:count].view(shape)


class _Dropout(torch.autograd.Function):
    """x ⊙ mask / (share of kept elements), where the mask is 1 for the numbers that are at least `bound`."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, numbers: torch.Tensor, bound: int) -> torch.Tensor:
        """X and result: any shape and floating-point type. numbers: int16, the shape of x."""
        ctx.save_for_backward(numbers)
        ctx.bound = bound
        return _masked(x, numbers, bound)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor):
        """The same mask and factor."""
        return _masked(gradient, *ctx.saved_tensors, ctx.bound), None, None


def _masked(x: torch.Tensor, numbers: torch.Tensor, bound: int) -> torch.Tensor:
    mask = torch.empty_like(x)
    torch.ge(numbers, bound, out=mask)
    kept = (LEVELS + LOWEST - bound) / LEVELS
    return mask.mul_(x).mul_(1 / kept)


def dropout(x: torch.Tensor, p: float) -> torch.Tensor:
    """Set each element to 0 with probability p, and divide the others by the probability that they stay.

    x: a CPU tensor of any shape and floating-point type. p: in [0, 1], rounded to a multiple of 2^-16. The factor
    belongs to the rounded probability, so the expected value of the result is x.
    """
    dropped = round(p * LEVELS)
    if dropped == 0:
        return x
    if dropped == LEVELS:
        return x * 0.0
    return _Dropout.apply(x, random_numbers(x.shape), LOWEST + dropped)


class FastDropout(FairseqDropout):
    """fairseq's dropout module with this module's masks on the CPU. On other devices it is torch's dropout."""

    def forward(self, x: torch.Tensor, inplace: bool = False) -> torch.Tensor:
        """The shape of x. inplace: permission to overwrite x; on the CPU it is not used."""
        active = self.p > 0 and (self.training or self.apply_during_inference)
        if active and x.device.type == "cpu":
            return dropout(x, self.p)
        return super().forward(x, inplace)


def use_fast_dropout(model: nn.Module) -> None:
    """Replace each dropout module of fairseq in the model by a `FastDropout` of the same rate and name.

    The dropout of attention weights (--attention-dropout) happens inside torch's attention and stays as it is.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is FairseqDropout:
                fast = FastDropout(child.p, child.module_name)
                fast.train(child.training)
                setattr(parent, name, fast)

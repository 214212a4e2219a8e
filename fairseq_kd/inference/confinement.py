"""Confine what fairseq can do with the options of a checkpoint that somebody else made.

Code: many models and optimizers of fairseq pass options to Python's `eval`. So every module of fairseq gets a global
name `eval` that only evaluates literals (`literals.evaluate`). Honest options keep their value. This also applies to
stock commands with `--user-dir`.

Memory and time: the options say how large a model is, so a small file can request terabytes. The weights in the file
show how large the model really is. `Budget` counts what torch would allocate while a model is built, before the
allocation.
"""

import builtins
import contextlib
import sys

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.literals import NotALiteral, evaluate

PACKAGES = ("fairseq", "fairseq_cli")
FREE_BYTES = 2**28  # per tensor, in addition to twice the weights: tables of positions, masks
TOTAL_FREE_BYTES = 2**30  # for all tensors, in addition to eight times the weights
FREE_CALLS = 5_000  # operations of torch, in addition to CALLS_PER_TENSOR
CALLS_PER_TENSOR = 100  # per tensor in the file; tied tensors count once


def confine() -> None:
    """Confine all loaded modules of fairseq. Can be called again."""
    for module in _modules():
        vars(module).setdefault("eval", evaluate)


@contextlib.contextmanager
def confined(trust: bool = False):
    """Confine fairseq inside the block. With `trust`, give it Python's own `eval` inside the block.

    Confined fairseq also refuses to read another checkpoint, because options can name a file that was not checked.
    """
    from fairseq import checkpoint_utils

    confine()
    if not trust:
        load, checkpoint_utils.load_checkpoint_to_cpu = checkpoint_utils.load_checkpoint_to_cpu, _refuse_another
        try:
            yield
        finally:
            checkpoint_utils.load_checkpoint_to_cpu = load
        return
    released = [module for module in _modules() if vars(module).get("eval") is evaluate]
    for module in released:
        module.eval = builtins.eval
    try:
        yield
    finally:
        for module in released:
            module.eval = evaluate


def _refuse_another(path, *_, **__):
    raise NotALiteral(f"its options name another checkpoint, {path}, which fairseq would read")


def _modules() -> list:
    return [module for name, module in list(sys.modules.items()) if module and name.partition(".")[0] in PACKAGES]


class OverBudget(KDError):
    """The options request a model that is much larger than the weights in the file."""


class Budget(TorchDispatchMode):
    """Raises OverBudget inside the block when building a model takes far more than its `weights` (name -> tensor)."""

    def __init__(self, weights: dict):
        super().__init__()
        found = [value for value in weights.values() if isinstance(value, torch.Tensor)]
        tensors = list({value.untyped_storage().data_ptr(): value for value in found}.values())  # without tied ones
        self._weights = 4 * sum(value.numel() for value in tensors)  # models are built in float32
        self._calls_left = FREE_CALLS + CALLS_PER_TENSOR * len(tensors)
        self._bytes_left = TOTAL_FREE_BYTES + 8 * self._weights

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        size = _new_bytes(function, args, kwargs)
        self._calls_left -= 1
        self._bytes_left -= size
        if size > FREE_BYTES + 2 * self._weights or self._bytes_left < 0 or self._calls_left < 0:
            raise OverBudget(
                f"its options request a model far larger than its weights, which take {self._weights / 2**20:.1f} MiB"
            )
        return function(*args, **kwargs)


def _new_bytes(function, args, kwargs) -> int:
    """Bytes of the new tensors that `function` will return, computed without data on torch's "meta" device.

    0 for operations that return views or change their arguments, and for operations that "meta" does not support: the
    size of their result depends on the values of tensors that were counted before.
    """
    if all(result.alias_info is not None for result in function._schema.returns):
        return 0
    args, kwargs = tree_map(_without_data, (args, kwargs))
    if any(argument.name == "device" for argument in function._schema.arguments):
        kwargs["device"] = "meta"
    try:
        result = function(*args, **kwargs)
    except (NotImplementedError, RuntimeError):
        return 0
    tensors = result if isinstance(result, (tuple, list)) else (result,)
    return sum(one.numel() * one.element_size() for one in tensors if isinstance(one, torch.Tensor))


def _without_data(value):
    return value.to("meta") if isinstance(value, torch.Tensor) else value

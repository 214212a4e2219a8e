"""fairseq's `eval`, confined to literals.

Many models and optimizers of fairseq pass options to Python's `eval`. Options can come from a checkpoint that somebody
else made, and this package lets torch load such files. So every module of fairseq gets a global name `eval` that
evaluates literals only (`literals.evaluate`). Honest options keep their value. It holds for stock commands with
`--user-dir` too.
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
FREE_BYTES = 2**28  # of one tensor, beyond twice the weights: tables of positions, masks
FREE_BYTES_IN_ALL = 2**30  # beyond eight times the weights
FREE_CALLS = 5_000  # operations of torch, beyond CALLS_OF_A_TENSOR for each tensor in the file, tied ones once
CALLS_OF_A_TENSOR = 100


def confine() -> None:
    """Confine all modules of fairseq that are loaded; can be called again."""
    for module in _modules():
        vars(module).setdefault("eval", evaluate)


@contextlib.contextmanager
def confined(trust: bool = False):
    """Confine fairseq inside the block, or with `trust` give it Python's own `eval` there.

    Confined, it reads no other checkpoint either: options can name one, which nobody has looked at.
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
    """A model that is much larger than its weights."""


class Budget(TorchDispatchMode):
    """Raises OverBudget inside the block when a model takes far more than its `weights` (name -> tensor)."""

    def __init__(self, weights: dict):
        super().__init__()
        found = [value for value in weights.values() if isinstance(value, torch.Tensor)]
        tensors = list({value.untyped_storage().data_ptr(): value for value in found}.values())  # tied ones once
        self._weights = 4 * sum(value.numel() for value in tensors)  # models are built in float32
        self._calls_left = FREE_CALLS + CALLS_OF_A_TENSOR * len(tensors)
        self._bytes_left = FREE_BYTES_IN_ALL + 8 * self._weights

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        size = _new_bytes(function, args, kwargs)
        self._calls_left -= 1
        self._bytes_left -= size
        if size > FREE_BYTES + 2 * self._weights or self._bytes_left < 0 or self._calls_left < 0:
            raise OverBudget(
                f"its options ask for a model far larger than its weights, which take {self._weights / 2**20:.1f} MiB"
            )
        return function(*args, **kwargs)


def _new_bytes(function, args, kwargs) -> int:
    """Bytes of the new tensors that `function` will return, found without data on torch's "meta" device.

    0 for operations that return views or change their arguments, and for those without a form for "meta": what they
    return depends on the values of tensors that were counted.
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

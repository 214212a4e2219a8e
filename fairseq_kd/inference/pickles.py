"""Which pickles are safe to load: the allowed types, and a check of the operations of a pickle.

Types. A fairseq checkpoint may contain two kinds of types beyond torch's own, each in a form that is harmless:

- `argparse.Namespace`: the options of the model, inside "cfg" and "args".
- Plain numeric numpy arrays and scalars: the counts that `--eval-bleu` keeps in "extra_state".

numpy's own classes are not allow-listed, because an `ndarray` of object dtype that is made from bytes is an array of
pointers which the file chooses. Their names in the pickle lead to the replacements below, which only create numeric
arrays.

Operations. torch's weights-only reader refuses most types. `check_pickle` follows the operations of a pickle before any
of them runs, and also refuses everything that fairseq does not write, slow codecs, and tuples that are small in the
file but expensive to traverse: a tuple that contains another tuple twice, which contains another one twice, and so on.
Hashing such a tuple traverses every copy.
"""

import argparse
import math
import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from pickle import UnpicklingError
from typing import NamedTuple

import numpy as np
import torch

NUMERIC_KINDS = "biufc"  # bool, signed, unsigned, float, complex


class NumericDtype:
    """Replaces `numpy.dtype` while a checkpoint is read: a numeric type and its byte order."""

    def __init__(self, code, align=False, copy=True):
        if not isinstance(code, str):
            raise UnpicklingError("GLOBAL numpy.dtype of something that is not a numeric type code")
        self.dtype = np.dtype(code)
        if self.dtype.kind not in NUMERIC_KINDS or self.dtype.shape:
            raise UnpicklingError(f"GLOBAL numpy.dtype[{self.dtype}] is not a numeric type")

    def __setstate__(self, state):
        self.dtype = self.dtype.newbyteorder(state[1])


class NumericArray(np.ndarray):
    """Replaces `numpy.ndarray` while a checkpoint is read. It is saved again as a plain array."""

    def __new__(cls, *args, **kwargs):  # noqa: D102
        raise UnpicklingError("GLOBAL numpy.ndarray is only read as a saved numeric array")

    def __setstate__(self, state):
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, NumericDtype) or not isinstance(data, bytes):
            raise UnpicklingError("GLOBAL numpy.ndarray of something that is not numeric")
        if len(data) != math.prod(shape) * dtype.dtype.itemsize:
            raise UnpicklingError("GLOBAL numpy.ndarray with bytes of another length than its shape")
        super().__setstate__((1, tuple(shape), dtype.dtype, bool(fortran), data))

    def __reduce__(self):
        return np.array(self, subok=False).__reduce__()


def reconstruct_array(cls, shape, code):
    """Replaces numpy's `_reconstruct`: an empty array that `__setstate__` fills."""
    return np.ndarray.__new__(NumericArray, (0,), np.int8)


def reconstruct_scalar(dtype, data):
    """Replaces numpy's `scalar`."""
    if not isinstance(dtype, NumericDtype) or not isinstance(data, bytes) or len(data) != dtype.dtype.itemsize:
        raise UnpicklingError("GLOBAL numpy.core.multiarray.scalar of something that is not numeric")
    return np.frombuffer(data, dtype.dtype)[0]


SAFE_TYPES = [
    argparse.Namespace,
    (NumericArray, "numpy.ndarray"),
    (NumericDtype, "numpy.dtype"),
    *((reconstruct_array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((reconstruct_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


MAX_PARTS = 10_000  # parts of a tuple; a nested tuple counts each time it appears

PICKLED_NAMES = {
    *("collections.OrderedDict", "collections.Counter", "builtins.set", "_codecs.encode"),
    *("torch.Size", "torch.nn.parameter.Parameter", "torch._utils._rebuild_parameter"),
    *("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"),
    *(f"torch.{kind.__name__}" for kind in torch._storage_classes),
    *(f"torch.storage.{kind.__name__}" for kind in torch._storage_classes),
    *(f"{one.__module__}.{one.__qualname__}" if isinstance(one, type) else one[1] for one in SAFE_TYPES),
}
# operations that form names while the pickle is read; torch does not read them either
OPCODES_OF_OTHER_NAMES = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}

ENCODE, CODECS = "_codecs.encode", ("latin1", "latin-1")  # how bytes are written in protocol 2


class Item(NamedTuple):
    """An entry of the unpickler's stack. parts: of a tuple. texts: a string, or the strings in a tuple."""

    parts: int = 1
    texts: tuple = ()
    name: str | None = None  # the imported name, for a GLOBAL


MARK = object()


def check_pickle(file) -> None:
    """Follow the operations of one pickle up to its end.

    Raises UnpicklingError in torch's own words for a name that is not allowed, and ValueError for a pickle that is
    damaged or built to take long.
    """
    stack, memo = [], {}
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in OPCODES_OF_OTHER_NAMES:
                raise ValueError(f"its pickle has the operation {opcode.name}, which checkpoints do not use")
            _step(opcode, argument, stack, memo)
    except (IndexError, KeyError) as error:
        raise ValueError("its pickle takes from an empty stack") from error


def _step(opcode, argument, stack: list, memo: dict) -> None:
    kind = opcode.name
    if kind in ("BINPUT", "LONG_BINPUT", "PUT"):
        memo[argument] = stack[-1]
    elif kind == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif kind in ("BINGET", "LONG_BINGET", "GET"):
        stack.append(memo[argument])
    elif kind == "MARK":
        stack.append(MARK)
    else:
        taken = _take(opcode, stack)
        if kind == "REDUCE" and taken[0].name == ENCODE and taken[1].texts[-1:] not in {(codec,) for codec in CODECS}:
            raise ValueError("its pickle encodes text by another codec than latin1")
        stack.extend(_made(opcode, argument, taken) for _ in opcode.stack_after)


def _take(opcode, stack: list) -> list[Item]:
    """Pop the items that the operation takes: a number of items, or the items behind the last mark and those before."""
    taken, single = [], opcode.stack_before
    if pickletools.markobject in single:
        while (item := stack.pop()) is not MARK:
            taken.append(item)
        single = single[: single.index(pickletools.markobject)]
    taken += [stack.pop() for _ in single]
    if any(item is MARK for item in taken):
        raise ValueError("its pickle takes a mark for an object")
    return taken[::-1]


def _made(opcode, argument, taken: list[Item]) -> Item:
    if opcode.name == "GLOBAL":
        name = _python3_name(argument)
        if name not in PICKLED_NAMES:
            raise UnpicklingError(f"GLOBAL {name} is not allowed")
        return Item(name=name)
    if opcode.name.startswith("TUPLE"):
        parts = 1 + sum(item.parts for item in taken)
        if parts > MAX_PARTS:
            raise ValueError(f"its pickle holds a tuple of more than {MAX_PARTS:,} parts")
        return Item(parts, tuple(text for item in taken for text in item.texts[:1]))
    return Item(texts=(argument,) if isinstance(argument, str) else ())


def _python3_name(argument: str) -> str:
    """Convert "module name" to "module.name". Pickles of protocol 2 use the names of Python 2."""
    module, _, name = argument.partition(" ")
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"

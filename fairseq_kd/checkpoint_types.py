"""The types beyond torch's own that a fairseq checkpoint may hold, each in a form that cannot do harm.

- `argparse.Namespace`: the options of the model, inside "cfg" and "args".
- Plain numeric numpy arrays and scalars: the counts that `--eval-bleu` keeps in "extra_state".

numpy's own classes are not allow-listed: an `ndarray` of object dtype made from bytes is an array of pointers chosen by
the file. The names in the pickle lead to the stand-ins below, which make numeric arrays and nothing else.
"""

import argparse
import math
from pickle import UnpicklingError

import numpy as np

NUMERIC_KINDS = "biufc"  # bool, signed, unsigned, float, complex


class NumericDtype:
    """Stands in for `numpy.dtype` while a checkpoint is read: a numeric type and its byte order."""

    def __init__(self, code, align=False, copy=True):
        if not isinstance(code, str):
            raise UnpicklingError("GLOBAL numpy.dtype of something that is not a numeric type code")
        self.dtype = np.dtype(code)
        if self.dtype.kind not in NUMERIC_KINDS or self.dtype.shape:
            raise UnpicklingError(f"GLOBAL numpy.dtype[{self.dtype}] is not a numeric type")

    def __setstate__(self, state):
        self.dtype = self.dtype.newbyteorder(state[1])


class NumericArray(np.ndarray):
    """Stands in for `numpy.ndarray`; it is saved again as a plain array."""

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
    """Stands in for numpy's `_reconstruct`: an empty array that `__setstate__` fills."""
    return np.ndarray.__new__(NumericArray, (0,), np.int8)


def reconstruct_scalar(dtype, data):
    """Stands in for numpy's `scalar`."""
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

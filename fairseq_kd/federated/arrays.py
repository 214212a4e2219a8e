"""Weights as NumPy arrays by name, without torch: in files, and checked against those of the global model."""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from fairseq_kd.artifacts.writing import file_in_progress
from fairseq_kd.core.errors import KDError

Arrays = dict[str, np.ndarray]


class BadWeights(Exception):
    """A client has sent weights that cannot be used. The text says what is wrong."""


def check_arrays(found: Arrays, wanted: Arrays) -> None:
    """Raises BadWeights unless `found` has the names and shapes of `wanted`, and finite values only."""
    for name in wanted:
        if name not in found:
            raise BadWeights(f"it lacks the weight {name}")
    for name, value in found.items():
        if name not in wanted:
            raise BadWeights(f"it has the weight {name}, which the global model lacks")
        if value.shape != wanted[name].shape:
            raise BadWeights(
                f"{name} has the shape {value.shape}, and that of the global model is {wanted[name].shape}"
            )
        if value.dtype.kind != "f" or not np.isfinite(value).all():
            raise BadWeights(f"{name} has values that are not finite numbers")


def save_arrays(path, arrays: Arrays) -> None:
    """Write arrays to the file `path`: whole or not at all."""
    with file_in_progress(Path(path)) as temporary, open(temporary, "wb") as file:
        np.savez(file, **{f"a{number}": value for number, value in enumerate(arrays.values())}, names=[*arrays])


def load_arrays(path) -> Arrays:
    """The arrays in a file of `save_arrays`. No object is unpickled. Raises KDError for another file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {str(name): file[f"a{number}"] for number, name in enumerate(file["names"])}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise KDError(f"{path} is damaged ({error}): remove its folder, and give the same command again") from error

"""Reading fairseq checkpoints without running what is in them.

torch >= 2.6 reads with `weights_only=True`: tensors, containers, numbers, strings, and the types that are allow-listed.
Importing this module allow-lists what fairseq-train writes beside those, and nothing else:

- `argparse.Namespace`: the options of the model, inside "cfg" and "args";
- plain numeric numpy arrays and scalars: the counts that `--eval-bleu` keeps in "extra_state".

Any other type is refused by name before anything of it is made. The test suite shows it with a hostile pickle.
"""

import argparse
import contextlib
import os
import pickle
import re
from pathlib import Path

import numpy as np
import torch

from fairseq_kd.errors import KDError


def _numpy_types() -> list:
    """Types of a pickled numeric array, under the module names of numpy 1 and numpy 2."""
    core = np._core if hasattr(np, "_core") else np.core
    reconstruct, scalar = core.multiarray._reconstruct, core.multiarray.scalar
    dtypes = {type(np.dtype(code)) for code in "?bhilqBHILQefd"}
    return [
        np.ndarray,
        np.dtype,
        *sorted(dtypes, key=lambda dtype: dtype.__name__),
        (reconstruct, "numpy._core.multiarray._reconstruct"),
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        (scalar, "numpy._core.multiarray.scalar"),
        (scalar, "numpy.core.multiarray.scalar"),
    ]


SAFE_TYPES = [argparse.Namespace, *_numpy_types()]
torch.serialization.add_safe_globals(SAFE_TYPES)


def refused_type(error: BaseException) -> str | None:
    """The full name of the type that a weights-only load refused, or None when `error` is something else."""
    if not isinstance(error, pickle.UnpicklingError):
        return None
    found = re.search(r"GLOBAL (\S+) ", str(error))
    return found.group(1) if found else None


def refusal(path, type_name: str) -> str:
    """The message for a checkpoint that holds a type which is not allow-listed."""
    return (
        f"{path} holds an object of type {type_name}, which fairseq checkpoints do not hold; it was refused without "
        "running it, because a pickled object can run any code. If you made this file yourself and trust it, "
        "name it with --trust-checkpoint"
    )


def read_checkpoint(path, trust: bool = False) -> dict:
    """Read a fairseq checkpoint to the CPU, upgraded to today's layout by fairseq itself.

    trust: load even if it holds other types; that runs whatever code the file carries.
    Raises KDError when the file is missing, holds a type that is not allow-listed, is damaged, or is no fairseq
    checkpoint.
    """
    from fairseq import checkpoint_utils

    path = Path(path)
    if not path.is_file():
        raise KDError(f"checkpoint {path} is not there" + (" (it is a folder)" if path.is_dir() else ""))
    try:
        with _trusting(trust):
            state = checkpoint_utils.load_checkpoint_to_cpu(str(path))
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
        KeyError,
        ValueError,
        TypeError,
    ) as error:
        if (name := refused_type(error)) is not None:
            raise KDError(refusal(path, name)) from error
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise KDError(
            f"checkpoint {path} ({path.stat().st_size:,} bytes) cannot be read: {reason}. It is damaged or not a "
            "fairseq checkpoint; copy it again from where it was made"
        ) from error
    if state.get("cfg") is None or "model" not in state:
        raise KDError(f"{path} is not a fairseq checkpoint: it has no 'cfg' or no 'model'")
    return state


@contextlib.contextmanager
def _trusting(trust: bool):
    """Let torch.load read any type inside the block, or no type beyond the allow-list whatever the environment says.

    The variable is torch's own switch.
    """
    name = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = os.environ.pop(name, None)
    if trust:
        os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before

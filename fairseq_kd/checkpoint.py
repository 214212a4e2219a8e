"""Reading fairseq checkpoints without running what is in them.

torch >= 2.6 reads with `weights_only=True`: tensors, containers, numbers, strings, and allow-listed types. Importing
this module allow-lists what fairseq-train writes beside those (`checkpoint_types`) and nothing else. Any other type is
refused by name before anything of it is made.

That is not the whole danger: fairseq passes some strings of the model's options to `eval`. So `read_checkpoint` also
refuses options that hold a call. Stock commands that read a checkpoint by themselves (--path, --restore-file) have the
check of types but not this one.
"""

import argparse
import ast
import contextlib
import os
import pickle
import re
from pathlib import Path

import torch

from fairseq_kd.checkpoint_types import SAFE_TYPES
from fairseq_kd.corpus.manifest import file_in_progress
from fairseq_kd.errors import KDError

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
        cfg = state["cfg"]
        complete = bool(cfg.task and cfg.model and state["model"] and state["optimizer_history"])
        code = None if trust else next(find_calls(cfg), None)
    except Exception as error:  # a damaged file can fail anywhere in torch, fairseq or omegaconf
        if (name := refused_type(error)) is not None:
            raise KDError(refusal(path, name)) from error
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise KDError(_not_readable(path, reason)) from error
    if not complete:
        raise KDError(_not_readable(path, "task, model, weights or history are missing in it"))
    if code is not None:
        raise KDError(
            f"{path} has the option {code[:80]!r}, which calls a function; fairseq would evaluate it while it builds "
            "the model. If you made this file yourself and trust it, name it with --trust-checkpoint"
        )
    state["args"] = None  # of old checkpoints; cfg was made from it, and fairseq would prefer it to a changed cfg
    return state


def updates_of(state: dict) -> int:
    """How many updates the model of a checkpoint has had."""
    return state["optimizer_history"][-1]["num_updates"]


def _not_readable(path: Path, reason: str) -> str:
    return (
        f"checkpoint {path} ({path.stat().st_size:,} bytes) cannot be read: {reason}. It is damaged or not a "
        "fairseq checkpoint; copy it again from where it was made"
    )


def find_calls(value):
    """Yield the strings inside nested options that are Python expressions with a call in them."""
    if isinstance(value, str):
        try:
            nodes = ast.walk(ast.parse(value.strip(), mode="eval"))
            if any(isinstance(node, ast.Call) for node in nodes):
                yield value
        except (SyntaxError, ValueError):
            return  # eval would refuse it as well
        except (MemoryError, RecursionError):
            yield value
    elif isinstance(value, argparse.Namespace):
        yield from find_calls(vars(value))
    elif hasattr(value, "items"):
        for item in value.values():
            yield from find_calls(item)
    elif hasattr(value, "__iter__"):
        for item in value:
            yield from find_calls(item)


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


def write_initial_checkpoint(path, state: dict, weights: dict) -> None:
    """Write `weights` for --finetune-from-model, with the rest of `state` (from `read_checkpoint`) but its optimizer's.

    Under a temporary name until it is whole. The configuration is written as plain containers.
    """
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(state["cfg"], resolve=True, enum_to_str=True)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_in_progress(path) as partial:
        torch.save(state | {"model": weights, "last_optimizer_state": None, "cfg": plain}, partial)

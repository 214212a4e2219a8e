"""Reading fairseq checkpoints without running what they contain, and sending them from rank 0 to the other ranks.

Reading fairseq checkpoints without running what is in them.

torch >= 2.6 reads with `weights_only=True`: tensors, containers, numbers, strings, and allow-listed types. Importing
this module allow-lists what fairseq-train writes beside those (`checkpoint_types`) and nothing else. Any other type is
refused by name before anything of it is made.

fairseq passes some options to `eval`, which is confined to literals (`confinement`) in every module of fairseq, here
and in stock commands that read a checkpoint by themselves (--path, --restore-file). `read_checkpoint` also judges the
file and its options (`checkpoint_contents`), so that a small file cannot claim much memory or time.

A checkpoint on its way from rank 0 of a training to the other ranks.

Rank 0 alone reads the file, by the allow-list of types (`checkpoint_types`). fairseq then sends what was read by
torch.save and torch.load, and torch >= 2.6 holds the other ranks to the same list, on which two types are missing that
no file needs: the placeholders that fairseq sends in the place of tensors, and the omegaconf containers that fairseq
has made of the options. So the first are allowed while something is sent, and no longer; the second are sent as plain
containers. Nothing in a message can run code that could not be in a file.
"""

import functools
import pickle
import re
from pathlib import Path

import torch
from fairseq.distributed import utils as distributed
from omegaconf import Container, OmegaConf

from fairseq_kd.artifacts.locks import exclusive
from fairseq_kd.artifacts.writing import ensure_writable_file, file_in_progress
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_one
from fairseq_kd.inference.checkpoint_contents import (
    Refused,
    check_file,
    check_old_options,
    check_options,
    check_weights,
)
from fairseq_kd.inference.confinement import confined
from fairseq_kd.inference.pickles import SAFE_TYPES

torch.serialization.add_safe_globals(SAFE_TYPES)
TRUST = "If you made this file yourself and trust it, name it with --trust-checkpoint"


class DamagedCheckpoint(KDError):
    """A file that is no whole checkpoint: not one that was refused, or that the system did not let us read."""


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
        f"running it, because a pickled object can run any code. {TRUST}"
    )


def read_checkpoint(path, trust: bool = False) -> dict:
    """Read a fairseq checkpoint to the CPU, upgraded to today's layout by fairseq itself.

    trust: load even if it holds other types; that runs whatever code the file carries.
    Raises KDError when the file is missing, cannot be read, or is refused for what it holds, and DamagedCheckpoint when
    it is damaged or no fairseq checkpoint.
    """
    path = Path(path)
    check_one(path, "checkpoint")
    if not path.is_file():
        raise KDError(f"checkpoint {path} is not there" + (" (it is a folder)" if path.is_dir() else ""))
    try:
        if not trust:
            check_file(path)
        state = torch.load(path, map_location="cpu", weights_only=not trust)
        if not trust:
            _check_state(state, path.stat().st_size)
        state = _upgraded(state, trust)
        cfg = state["cfg"]
        complete = bool(cfg.task and cfg.model and state["model"] and type(updates_of(state)) is int)
    except Refused as error:
        raise KDError(f"{path} {error}. {TRUST}") from error
    except (OSError, MemoryError) as error:  # torch reports a file that is cut off in other ways
        raise KDError(f"checkpoint {path} cannot be read ({type(error).__name__}: {error})") from error
    except Exception as error:  # a damaged file can fail anywhere in torch, fairseq or omegaconf
        if (name := refused_type(error)) is not None:
            raise KDError(refusal(path, name)) from error
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise DamagedCheckpoint(_not_readable(path, reason)) from error
    if not complete:
        raise DamagedCheckpoint(_not_readable(path, "task, model, weights or history are missing in it"))
    state["args"] = None  # of old checkpoints; cfg was made from it, and fairseq would prefer it to a changed cfg
    return state


def _check_state(state, file_size: int) -> None:
    if not isinstance(state, dict):
        raise TypeError(f"it holds a {type(state).__name__}, not a dict")
    if type(state.get("cfg")) not in (dict, type(None)):
        raise TypeError(f"its cfg is a {type(state['cfg']).__name__}, not a dict")
    check_options(state.get("cfg"), "cfg")
    check_old_options(state.get("args"))
    check_weights(state["model"], file_size)


def _upgraded(state: dict, trust: bool) -> dict:
    """The state of a file as fairseq's `load_checkpoint_to_cpu` would return it.

    That function would read the file again, and before its options are judged.
    """
    from fairseq import checkpoint_utils
    from omegaconf import OmegaConf

    with confined(trust):
        if state.get("cfg") is not None:
            state["cfg"] = OmegaConf.create(state["cfg"], flags={"allow_objects": True})
        return checkpoint_utils._upgrade_state_dict(state)


def updates_of(state: dict) -> int:
    """How many updates the model of a checkpoint has had."""
    return state["optimizer_history"][-1]["num_updates"]


def _not_readable(path: Path, reason: str) -> str:
    return (
        f"checkpoint {path} ({path.stat().st_size:,} bytes) cannot be read: {reason}. It is damaged or not a "
        "fairseq checkpoint; copy it again from where it was made"
    )


def write_initial_checkpoint(path, state: dict, weights: dict) -> None:
    """Write `weights` for --finetune-from-model, with the rest of `state` (from `read_checkpoint`) but its optimizer's.

    It is whole or absent, and one process at a time writes it. Raises KDError when another process is writing it, and
    when there is no room. The configuration is written as plain containers, and as it was said: a
    reference to something else, such as ${oc.env:NAME}, is not replaced by what it is on this machine.
    """
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(state["cfg"], resolve=False, enum_to_str=True)
    path = Path(path)
    ensure_writable_file(path)
    with exclusive(path), file_in_progress(path) as partial:
        torch.save(state | {"model": weights, "last_optimizer_state": None, "cfg": plain}, partial)


def plain(message):
    """`message` with plain containers for the omegaconf ones in the values of a dict; interpolations stay text."""
    if isinstance(message, Container):
        return OmegaConf.to_container(message, enum_to_str=True)
    if isinstance(message, dict):
        return {name: plain(value) if isinstance(value, Container) else value for name, value in message.items()}
    return message


def let_checkpoints_be_sent() -> None:
    """Make fairseq's `broadcast_object` send whatever a checkpoint may hold; can be called again.

    This replaces a function of fairseq by one that calls it: no option and no class of a plugin comes between.
    """
    send = distributed.broadcast_object
    if getattr(send, "of_fairseq_kd", False):
        return

    @functools.wraps(send)
    def broadcast_object(obj, src_rank, group, dist_device=None):
        with torch.serialization.safe_globals([distributed._TensorPlaceholder]):
            return send(plain(obj), src_rank, group, dist_device)

    broadcast_object.of_fairseq_kd = True
    distributed.broadcast_object = broadcast_object

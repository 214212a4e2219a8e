"""Read fairseq checkpoints without running code that they contain, and send them from rank 0 to the other ranks.

Reading. torch >= 2.6 reads with `weights_only=True`: tensors, containers, numbers, strings, and allow-listed types.
Importing this module allow-lists the other types that fairseq-train writes (`pickles.SAFE_TYPES`) and nothing else. Any
other type is refused by name before an object of it is created.

fairseq passes some options to `eval`, which is confined to literals (`confinement`) in every module of fairseq, also in
stock commands that read a checkpoint themselves (--path, --restore-file). `read_checkpoint` also checks the file and
its options (`checkpoint_contents`), so that a small file cannot take much memory or time.

Sending. In a training, only rank 0 reads the file. fairseq then sends the loaded state with torch.save and torch.load,
and torch >= 2.6 applies the same allow-list on the other ranks. Two types are not on it, because no file needs them:
the placeholders that fairseq sends in place of tensors, and the omegaconf containers into which fairseq converts the
options. The placeholders are allowed only while a message is sent; the containers are sent as plain containers. So a
message cannot run code that a file could not run.
"""

import functools
import math
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
UNSMOOTHED = ("cross_entropy", "label_smoothed_cross_entropy", "kd_word", "kd_hybrid")  # if --label-smoothing is 0
TRUST = "If you made this file yourself and trust it, name it with --trust-checkpoint"


class DamagedCheckpoint(KDError):
    """The file is not a complete checkpoint. Files that are refused, or that the system cannot read, raise KDError."""


def refused_type(error: BaseException) -> str | None:
    """The full name of the type that a weights-only load refused, or None for any other error."""
    if not isinstance(error, pickle.UnpicklingError):
        return None
    found = re.search(r"GLOBAL (\S+) ", str(error))
    return found.group(1) if found else None


def refusal(path, type_name: str) -> str:
    """The error message for a checkpoint that contains a type which is not allow-listed."""
    return (
        f"{path} holds an object of type {type_name}, which fairseq checkpoints do not hold; it was refused without "
        f"being run, because a pickled object can run any code. {TRUST}"
    )


def read_checkpoint(path, trust: bool = False) -> dict:
    """Read a fairseq checkpoint to the CPU. fairseq itself upgrades it to the current layout.

    trust: load the file even if it contains other types; this runs any code in the file.
    Raises KDError when the file is missing, cannot be read, or is refused for its content, and DamagedCheckpoint when
    it is damaged or is not a fairseq checkpoint.
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
    except (OSError, MemoryError) as error:  # a truncated file raises other errors in torch
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise KDError(f"checkpoint {path} cannot be read ({reason})") from error
    except Exception as error:  # a damaged file can fail anywhere in torch, fairseq or omegaconf
        if (name := refused_type(error)) is not None:
            raise KDError(refusal(path, name)) from error
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise DamagedCheckpoint(_not_readable(path, reason)) from error
    if not complete:
        raise DamagedCheckpoint(_not_readable(path, "its task, model, weights or history are missing"))
    state["args"] = None  # old checkpoints have it; cfg was made from it, and fairseq would prefer it to a changed cfg
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
    """The state as fairseq's `load_checkpoint_to_cpu` would return it.

    That function itself cannot be used, because it would read the file before its options are checked.
    """
    from fairseq import checkpoint_utils
    from omegaconf import OmegaConf

    with confined(trust):
        if state.get("cfg") is not None:
            state["cfg"] = OmegaConf.create(state["cfg"], flags={"allow_objects": True})
        return checkpoint_utils._upgrade_state_dict(state)


def updates_of(state: dict) -> int:
    """The number of updates after which the checkpoint was written."""
    return state["optimizer_history"][-1]["num_updates"]


def validation_nll(state: dict) -> float | None:
    """The validation nll that the checkpoint records, in nats per token; None if it records no such value.

    fairseq records the value of --best-checkpoint-metric: nll_loss is in bits per token, and ppl is 2 to this power.
    Without label smoothing the default metric, loss, is the nll_loss.
    """
    value = (state.get("extra_state") or {}).get("val_loss")
    option = functools.partial(OmegaConf.select, OmegaConf.create(state["cfg"]))
    metric = option("checkpoint.best_checkpoint_metric")
    per_token = not option("optimization.sentence_avg")
    if metric == "loss" and per_token and option("criterion._name") in UNSMOOTHED:
        metric = None if option("criterion.label_smoothing") else "nll_loss"
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        return None
    return {"nll_loss": value * math.log(2), "ppl": math.log(value)}.get(metric)


def _not_readable(path: Path, reason: str) -> str:
    return (
        f"checkpoint {path} ({path.stat().st_size:,} bytes) cannot be read: {reason}. It is damaged or not a "
        "fairseq checkpoint; copy it again from its source"
    )


def write_initial_checkpoint(path, state: dict, weights: dict) -> None:
    """Write a checkpoint for --finetune-from-model: `weights`, and `state` of `read_checkpoint` without its optimizer.

    The file is complete or absent, and one process at a time writes it. The configuration is written as plain
    containers, unresolved: a reference such as ${oc.env:NAME} is not replaced by its value on this machine.
    Raises KDError when another process is writing the file, and when the disk is full.
    """
    path = Path(path)
    ensure_writable_file(path)
    with exclusive(path), file_in_progress(path) as partial:
        save_initial_checkpoint(partial, state, weights)


def save_initial_checkpoint(path, state: dict, weights: dict) -> None:
    """As `write_initial_checkpoint`, to a file that gets its name later, such as one of a folder in progress."""
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(state["cfg"], resolve=False, enum_to_str=True)
    torch.save(state | {"model": weights, "last_optimizer_state": None, "cfg": plain}, path)


def plain(message):
    """`message` with plain containers for omegaconf containers, also in the values of a dict. References stay text."""
    if isinstance(message, Container):
        return OmegaConf.to_container(message, enum_to_str=True)
    if isinstance(message, dict):
        return {name: plain(value) if isinstance(value, Container) else value for name, value in message.items()}
    return message


def let_checkpoints_be_sent() -> None:
    """Make fairseq's `broadcast_object` send everything that a checkpoint may contain. Can be called again.

    A wrapper replaces fairseq's function, because no option and no class of a plugin can change what it sends.
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

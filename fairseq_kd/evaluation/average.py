"""Average the weights of several checkpoints of equal shape, and write the result as a checkpoint.

The checkpoints are of one training, or of several models: a "model soup" (Wortsman et al. 2022, arXiv 2203.05482).
"""

from pathlib import Path

import torch
from omegaconf import OmegaConf

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.request import flatten
from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.checkpoint import read_checkpoint, write_initial_checkpoint

MARK = "averaged_from"  # key in "extra_state": file name -> sha256 of each averaged checkpoint
# options that change the meaning of the weights but not their shapes
MEANING = (
    "arch",
    "_name",
    "attention_heads",
    "normalize_before",
    "activation_fn",
    "ffn_type",
    "no_scale_embedding",
    "adaptive_input",
    "cross_self_attention",
)


def check_out(out, trust: bool = False, option: str = "--out-checkpoint") -> None:
    """Raises KDError when `out` exists and is not an average: it would be lost. trust: see `read_checkpoint`."""
    if Path(out).exists() and MARK not in (read_checkpoint(out, trust=trust).get("extra_state") or {}):
        raise KDError(f"{option} {out} exists and is not an average, and it would be lost: give another file")


def write_average(checkpoints: dict[Path, str], out, trusted=()) -> None:
    """Write the mean of the weights of `checkpoints` (path -> sha256) to `out`.

    The sums are float64; the result has the dtypes of the first checkpoint. Everything that is not a floating-point
    tensor (counters, the configuration) comes from the first checkpoint. The optimizer's state is left out.
    trusted: the checkpoints to read even if they hold code. Raises KDError when a checkpoint cannot be read or has
    another architecture.
    """
    with Inputs() as inputs:
        for path, sha256 in checkpoints.items():
            inputs.watch(path)
            if inputs.sha256(path) != sha256:
                raise KDError(f"{path} was changed after it was measured: run the command after the training")
        state, weights = _mean(checkpoints, trusted)
        inputs.check()
    made_from = dict(zip(names_of(list(checkpoints)), checkpoints.values(), strict=True))
    state["extra_state"] = (state.get("extra_state") or {}) | {MARK: made_from}
    write_initial_checkpoint(out, state, weights)


def names_of(paths: list[Path]) -> list[str]:
    """The names of the files; their paths where two files have the same name."""
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else list(map(str, paths))


def soup(checkpoints: list[Path], out, trusted=()) -> dict[str, str]:
    """Write the mean of the weights of the files to `out`, and return their names with their sha256.

    A finished `out` of the same files is kept. Raises KDError for one file, for two files with the same content, when
    `out` exists and is not an average, and as `write_average` does.
    """
    hashes = {Path(path): sha256_file(path) for path in checkpoints}
    if len(hashes) < 2:
        raise KDError(f"{next(iter(hashes))} is one checkpoint, and a mean needs two or more: join them by :")
    contents = list(hashes.values())
    if repeated := [path for path, sha256 in hashes.items() if contents.count(sha256) > 1]:
        raise KDError(f"{repeated[0]} and {repeated[1]} have the same content, which would double their weight: leave "
                      "one of them out")  # fmt: skip
    check_out(out, option="--out")
    found = dict(zip(names_of(list(hashes)), contents, strict=True))
    if not Path(out).exists() or read_checkpoint(out)["extra_state"][MARK] != found:
        write_average(hashes, out, trusted)
    return found


def _mean(checkpoints: dict[Path, str], trusted) -> tuple[dict, dict]:
    """(state of the first checkpoint, mean weights)."""
    (first, *others) = checkpoints
    state = read_checkpoint(first, trust=first in trusted)
    sums = {name: value.to(torch.float64, copy=True) for name, value in state["model"].items() if _is_averaged(value)}
    for path in others:
        other = read_checkpoint(path, trust=path in trusted)
        _check_same_architecture(first, state, path, other)
        for name, total in sums.items():
            total += other["model"][name]
    weights, tied = {}, {}
    for name, value in state["model"].items():
        if _is_averaged(value):
            place = (value.data_ptr(), value.shape, value.stride())
            weights[name] = tied.setdefault(place, (sums[name] / len(checkpoints)).to(value.dtype))
        else:
            weights[name] = value
    return state, weights


def _is_averaged(value) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _check_same_architecture(first, state, path, other) -> None:
    for what, of in (("the option", _options), ("the weights", _shapes)):
        one, two = of(state), of(other)
        for name in sorted(one.keys() | two.keys()):
            if one.get(name) != two.get(name):
                raise KDError(
                    f"{path} and {first} have different architectures: {what} {name} is {two.get(name, 'missing')} in "
                    f"the first and {one.get(name, 'missing')} in the second. Only checkpoints of one model can be "
                    "averaged"
                )


def _options(state) -> dict:
    """The options in MEANING at any level of nesting: "encoder_attention_heads", "encoder.attention_heads"."""
    model = state["cfg"].model
    options = flatten(OmegaConf.to_container(model, enum_to_str=True) if OmegaConf.is_config(model) else vars(model))
    return {name: value for name, value in options.items() if name.endswith(MEANING)}


def _shapes(state) -> dict:
    return {name: tuple(value.shape) for name, value in state["model"].items() if isinstance(value, torch.Tensor)}

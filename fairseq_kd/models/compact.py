"""Convert a student with gates to a smaller student without gates.

The heads and channels of closed gates are removed, and the values of open gates are multiplied into the weights. The
result is a kd_student with a width per layer and with the same outputs as the gated student in eval mode.
"""

from argparse import Namespace
from pathlib import Path

import torch
from omegaconf import open_dict

from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.checkpoint import read_checkpoint, write_initial_checkpoint
from fairseq_kd.models.gates import GATE_STATE, HardConcreteGate

SCORE, DECIDED = GATE_STATE
# (side, part of a layer) -> name of the option that records how many heads or channels each layer keeps
OPTIONS = {
    ("encoder", "fc2"): "encoder_ffn_widths",
    ("encoder", "self_attn"): "encoder_self_heads",
    ("decoder", "fc2"): "decoder_ffn_widths",
    ("decoder", "self_attn"): "decoder_self_heads",
    ("decoder", "encoder_attn"): "decoder_cross_heads",
}


def compact_checkpoint(source, out, trust: bool = False) -> dict:
    """Write the compact student of checkpoint `source` to `out`.

    Returns {"before": parameters, "after": parameters, and per option of OPTIONS a text such as "3,0,40"}. The
    optimizer's state is left out, because it only fits the large student.
    Raises KDError when `source` cannot be read or is not a kd_adaptive student.
    """
    out = Path(out)
    if out.exists() and out.samefile(source):
        raise KDError(f"--out {out} is the checkpoint itself: give another file")
    state = read_checkpoint(source, trust=trust)
    args = state["cfg"].model
    arch = str(getattr(args, "arch", "model"))
    if not arch.startswith("kd_adaptive"):
        raise KDError(f"{source} is a {arch} and has no gates: give a checkpoint of a kd_adaptive student")
    weights = {name: value for name, value in state["model"].items() if name != "_extra_state"}
    before = _size(weights)
    weights, widths = compact_weights(weights, args)
    with open_dict(state["cfg"]):
        state["cfg"].model = _recorded(args, widths)
    write_initial_checkpoint(out, state, weights)
    return {"before": before, "after": _size(weights), **widths}


def compact_weights(weights: dict[str, torch.Tensor], args) -> tuple[dict, dict[str, str]]:
    """(weights without gates, option -> how many heads or channels each layer keeps, such as "12,0,40")."""
    weights = dict(weights)
    widths = {}
    for (side, part), option in OPTIONS.items():
        kept = []
        for number in range(getattr(args, f"{side}_layers")):
            layer = f"{side}.layers.{number}"
            if part == "fc2":
                kept.append(_cut_channels(weights, layer))
            else:
                head_dim = getattr(args, f"{side}_embed_dim") // getattr(args, f"{side}_attention_heads")
                kept.append(_cut_heads(weights, f"{layer}.{part}", head_dim))
        widths[option] = ",".join(map(str, kept))
    return weights, widths


def _cut_channels(weights, layer: str) -> int:
    if f"{layer}.fc2{SCORE}" not in weights:
        return weights[f"{layer}.fc2.weight"].size(1)  # --capacity-gates heads
    keep, values = _open_gates(weights, f"{layer}.fc2")
    for half in ("fc1", "fc1.value", "fc1.gate"):
        _take_rows(weights, f"{layer}.{half}", keep)
    _take_columns(weights, f"{layer}.fc2", keep, values)
    return len(keep)


def _cut_heads(weights, name: str, head_dim: int) -> int:
    if f"{name}.out_proj{SCORE}" not in weights:  # --capacity-gates channels, or no heads at all
        return weights[f"{name}.out_proj.weight"].size(1) // head_dim
    keep, values = _open_gates(weights, f"{name}.out_proj")
    rows = (keep.unsqueeze(1) * head_dim + torch.arange(head_dim)).flatten()
    for projection in ("q_proj", "k_proj", "v_proj"):
        _take_rows(weights, f"{name}.{projection}", rows)
        if len(keep) == 0:  # `HeadAttention` without heads has no projections
            del weights[f"{name}.{projection}.weight"], weights[f"{name}.{projection}.bias"]
    _take_columns(weights, f"{name}.out_proj", rows, values.repeat_interleave(head_dim))
    return len(keep)


def _open_gates(weights, linear: str):
    """(numbers of the gates that are not closed, their values). The gates are removed from `weights`."""
    score, decided = weights.pop(linear + SCORE), weights.pop(linear + DECIDED)
    gate = HardConcreteGate(len(score))
    gate.score.data, gate.decided = score, decided
    values = gate.fixed_values().detach()
    keep = values.nonzero().squeeze(1)
    return keep, values[keep]


def _take_rows(weights, linear: str, rows) -> None:
    for name in (f"{linear}.weight", f"{linear}.bias"):
        if name in weights:
            weights[name] = weights[name][rows].clone()


def _take_columns(weights, linear: str, columns, values) -> None:
    matrix = weights[f"{linear}.weight"]
    weights[f"{linear}.weight"] = (matrix[:, columns].float() * values).to(matrix.dtype)


def _recorded(args: Namespace, widths: dict[str, str]) -> Namespace:
    """The options of the compact student."""
    kept = {name: value for name, value in vars(args).items() if not name.startswith("capacity_")}
    return Namespace(**kept | widths | {"arch": "kd_student", "_name": "kd_student"})


def _size(weights) -> int:
    """The number of parameters without gates. Tied parameters count once."""
    tied = {"decoder.embed_tokens.weight", "decoder.output_projection.weight"}
    return sum(
        value.numel()
        for name, value in weights.items()
        if not name.endswith((*GATE_STATE, "version")) and not (name in tied and _is_tied(weights, value))
    )


def _is_tied(weights, value) -> bool:
    source = weights["encoder.embed_tokens.weight"]
    return value.shape == source.shape and torch.equal(value, source)

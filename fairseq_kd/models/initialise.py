"""A student's first weights from its teacher: some of its layers, its embeddings, its most important channels.

Layers of the same width can be taken over; which ones is chosen as by Sun et al. 2019 (arXiv 1908.09355, "skip" and
"last"). A narrower feed-forward network gets the channels with the largest product of norms

    importance of channel c = |row c of fc1, with its bias| · |column c of fc2|

which bounds what the channel can add to the output for a positively homogeneous activation such as ReLU. Other widths
(embeddings, heads) are refused: cutting them changes every residual connection.
"""

import re

import torch

from fairseq_kd.core.errors import KDError
from fairseq_kd.models.gates import GATE_STATE

CHOICES = ("skip", "first", "last")
SAME = ("embed_dim", "attention_heads", "normalize_before", "learned_pos")


def chosen_layers(teacher: int, student: int, choice: str) -> list[int]:
    """Which of `teacher` layers become the `student` layers: evenly from first to last, or the first, or the last.

    Raises KDError when the student has more.
    """
    if student > teacher:
        raise KDError(f"the student has {student} layers, its teacher {teacher}: there are not enough to take over")
    if choice == "skip":
        return [round(i * (teacher - 1) / max(1, student - 1)) for i in range(student)]
    return list(range(student) if choice == "first" else range(teacher - student, teacher))


def check_fit(teacher_args, student_args) -> None:
    """Raises KDError when weights of the teacher would mean something else in the student."""
    names = [f"{side}_{name}" for side in ("encoder", "decoder") for name in SAME]
    for name in (*names, "activation_fn", "share_all_embeddings"):
        found = [getattr(args, name, None) for args in (teacher_args, student_args)]
        if found[0] != found[1]:
            raise KDError(
                f"{name} is {found[0]} in the teacher and {found[1]} in the student, so its weights do not fit: give "
                f"the student the same (--{name.replace('_', '-')}), or take another --arch"
            )


def initial_weights(teacher, student, choice: str) -> dict[str, torch.Tensor]:
    """The student's state dict, filled from the teacher's; gates keep what they begin with. Both are models.

    Raises KDError for a weight that the teacher does not have, or has in another shape.
    """
    sides = ("encoder", "decoder")
    layers = {
        side: chosen_layers(len(getattr(teacher, side).layers), len(getattr(student, side).layers), choice)
        for side in sides
    }
    source, weights = teacher.state_dict(), {}
    channels = {}  # layer -> the teacher's channels that the student takes
    for side in sides:
        for number, layer in enumerate(getattr(student, side).layers):
            taken = getattr(teacher, side).layers[layers[side][number]]
            channels[f"{side}.layers.{number}"] = important_channels(taken, layer.fc2.in_features)
    for name, own in student.state_dict().items():
        if name.endswith((*GATE_STATE, "_extra_state")):
            weights[name] = own
            continue
        found = re.match(r"(encoder|decoder)\.layers\.(\d+)\.(.*)", name)
        value = source.get(name)
        if found:
            side, number, rest = found[1], int(found[2]), found[3]
            value = source.get(f"{side}.layers.{layers[side][number]}.{rest}")
            if value is not None and rest.startswith("fc1."):
                value = value[channels[f"{side}.layers.{number}"]]
            elif value is not None and rest == "fc2.weight":
                value = value[:, channels[f"{side}.layers.{number}"]]
        if value is None or value.shape != own.shape:
            has = "none" if value is None else f"one of shape {tuple(value.shape)}"
            raise KDError(
                f"the student has a {name} of shape {tuple(own.shape)}, the teacher has {has}: it cannot be taken"
            )
        weights[name] = value.clone()
    return weights


def important_channels(layer, count: int) -> torch.Tensor:
    """The `count` most important channels of a feed-forward network, in their order.

    Raises KDError when it has fewer, or is of another kind.
    """
    if not isinstance(layer.fc1, torch.nn.Linear):
        raise KDError("the teacher has gated linear units, whose channels cannot be taken over")
    if count > layer.fc1.out_features:
        raise KDError(
            f"the student's feed-forward networks have {count} channels, the teacher's {layer.fc1.out_features}: "
            f"give --encoder-ffn-embed-dim and --decoder-ffn-embed-dim of at most {layer.fc1.out_features}"
        )
    rows = torch.cat([layer.fc1.weight, layer.fc1.bias.unsqueeze(1)], dim=1).norm(dim=1)
    importance = rows * layer.fc2.weight.norm(dim=0)
    return importance.topk(count).indices.sort().values

"""Initialise a student from its teacher: some of the teacher's layers, its embeddings, its most important channels.

The student copies layers of the same width. They are chosen as in Sun et al. 2019 (arXiv 1908.09355, "skip" and
"last"). A narrower feed-forward network gets the channels with the largest product of norms:

    importance of channel c = |row c of fc1, with its bias| · |column c of fc2|

For a positively homogeneous activation such as ReLU, the product bounds the channel's contribution to the output. Other
embedding widths and other numbers of heads are refused, because cutting them changes every residual connection.
"""

import re

import torch

from fairseq_kd.core.errors import KDError
from fairseq_kd.models.gates import GATE_STATE

CHOICES = ("skip", "first", "last")
GATED = "the teacher has gated linear units, whose channels cannot be copied: give a teacher without --ffn-type glu"
SAME = ("embed_dim", "attention_heads", "normalize_before", "learned_pos")  # of each side
SAME_OF_BOTH = ("activation_fn", "share_all_embeddings", "layernorm_embedding", "no_scale_embedding")
SAME_OF_BOTH += ("no_token_positional_embeddings", "no_decoder_final_norm")


def chosen_layers(teacher: int, student: int, choice: str) -> list[int]:
    """The numbers of the teacher's layers that the student copies.

    teacher, student: numbers of layers. choice: "skip" (evenly spaced from the first to the last), "first" or "last".
    Raises KDError when the student has more layers than the teacher.
    """
    if student > teacher:
        raise KDError(
            f"the student has {student} layers, its teacher {teacher}: a student can have at most its teacher's layers"
        )
    if choice == "skip":
        return [round(i * (teacher - 1) / max(1, student - 1)) for i in range(student)]
    return list(range(student) if choice == "first" else range(teacher - student, teacher))


def check_possible(teacher_args, student_args) -> None:
    """Raises KDError when the options show that a student cannot begin with weights of its teacher.

    Both: the options of a model as fairseq-train parses them, with the defaults of the architecture.
    """
    check_fit(teacher_args, student_args)
    for side in ("encoder", "decoder"):
        chosen_layers(*(getattr(args, f"{side}_layers") for args in (teacher_args, student_args)), "first")
        _check_channels(*(getattr(args, f"{side}_ffn_embed_dim") for args in (student_args, teacher_args)))
    if getattr(teacher_args, "ffn_type", "plain") == "glu":
        raise KDError(GATED)
    if getattr(student_args, "ffn_type", "plain") == "glu":
        raise KDError("the student has gated linear units, which its teacher lacks: give a student without them")


def _check_transformer(who: str, args) -> None:
    from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY
    from fairseq.models.transformer import TransformerModelBase

    arch = str(getattr(args, "arch", None) or getattr(args, "_name", None))
    model = ARCH_MODEL_REGISTRY.get(arch) or MODEL_REGISTRY.get(arch)
    if model is None or not issubclass(model, TransformerModelBase):
        raise KDError(
            f"the {who} has the architecture {arch}, which is no transformer: only a transformer can begin with layers "
            "of a transformer"
        )


def check_fit(teacher_args, student_args) -> None:
    """Raises KDError when the teacher's weights would have another meaning in the student."""
    _check_transformer("teacher", teacher_args)
    _check_transformer("student", student_args)
    names = [f"{side}_{name}" for side in ("encoder", "decoder") for name in SAME]
    for name in (*names, *SAME_OF_BOTH):
        found = [getattr(args, name, None) for args in (teacher_args, student_args)]
        if (found[0] or None) != (found[1] or None):  # old checkpoints lack options that are off
            raise KDError(
                f"{name} is {found[0]} in the teacher and {found[1]} in the student, so the weights do not fit: give "
                f"the student the same value (--{name.replace('_', '-')}), or another --arch"
            )
    shares = [getattr(args, "share_decoder_input_output_embed", False) for args in (teacher_args, student_args)]
    if shares[1] and not shares[0] and not student_args.share_all_embeddings:
        raise KDError(
            "the student has one matrix for the input and the output of its decoder, and the teacher has two, so one "
            "of them would be lost: leave --share-decoder-input-output-embed out, or give another --arch"
        )


def initial_weights(teacher, student, choice: str) -> dict[str, torch.Tensor]:
    """The student's state dict with the teacher's weights. Gates keep their initial values.

    teacher, student: models. Raises KDError for a weight that the teacher does not have in this shape.
    """
    sides = ("encoder", "decoder")
    layers = {
        side: chosen_layers(len(getattr(teacher, side).layers), len(getattr(student, side).layers), choice)
        for side in sides
    }
    source, weights = teacher.state_dict(), {}
    channels = {}  # layer -> the teacher's channels that the student copies
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
                f"the student has a {name} of shape {tuple(own.shape)}, but the teacher has {has}: it cannot be copied"
            )
        weights[name] = value.clone()
    return weights


def _check_channels(student: int, teacher: int) -> None:
    if student > teacher:
        raise KDError(
            f"the student's feed-forward networks have {student} channels, the teacher's {teacher}: give "
            f"--encoder-ffn-embed-dim and --decoder-ffn-embed-dim of at most {teacher}"
        )


def important_channels(layer, count: int) -> torch.Tensor:
    """The numbers of the `count` most important channels of a feed-forward network, ascending.

    Raises KDError when the network has fewer channels, or gated linear units.
    """
    if not isinstance(layer.fc1, torch.nn.Linear):
        raise KDError(GATED)
    _check_channels(count, layer.fc1.out_features)
    rows = torch.cat([layer.fc1.weight, layer.fc1.bias.unsqueeze(1)], dim=1).norm(dim=1)
    importance = rows * layer.fc2.weight.norm(dim=0)
    return importance.topk(count).indices.sort().values

"""`--like CHECKPOINT`: a student with the dimensions of another, such as the compact one that shall be trained on."""

from argparse import Namespace

from fairseq_kd.checkpoint import read_checkpoint
from fairseq_kd.errors import KDError
from fairseq_kd.models.shape import LAYER_OPTIONS

DIMENSIONS = (
    *(f"{side}_{name}" for side in ("encoder", "decoder") for name in ("embed_dim", "ffn_embed_dim", "layers")),
    *(f"{side}_{name}" for side in ("encoder", "decoder") for name in ("attention_heads", "normalize_before")),
    *("ffn_type", "activation_fn", "separate_embeddings", *LAYER_OPTIONS),
)


def take_dimensions(args: Namespace, rung: str | None) -> None:
    """Copy to `args` what makes the shape of the student in the checkpoint `args.like`.

    Raises KDError when the checkpoint is no student, and for a dimension given beside it.
    """
    path, args.like = args.like, None  # a checkpoint of this training holds the dimensions, and needs no other file
    if rung is not None:
        raise KDError(f"--like {path} brings its own dimensions: give --arch {args.arch.rsplit('_', 1)[0]} with it")
    model = read_checkpoint(path)["cfg"].model
    if not str(getattr(model, "arch", "")).startswith(("kd_student", "kd_adaptive")):
        raise KDError(
            f"--like {path}: its architecture is {getattr(model, 'arch', 'unknown')}, it must be a kd_student"
        )
    for name in DIMENSIONS:
        if getattr(args, name, None) not in (None, False):
            raise KDError(f"--{name.replace('_', '-')} is given by --like {path}: leave one of them out")
        if getattr(model, name, None) is not None:
            setattr(args, name, getattr(model, name))

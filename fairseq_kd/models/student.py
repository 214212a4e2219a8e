"""`--arch kd_student_3m` ... `kd_student_146m`: fairseq's transformer in sizes for students.

Pre-norm, one embedding for source, target and output, dimensions of configs/students.yaml; every option of fairseq's
transformer still applies. `kd_student` is the same model with fairseq's own default dimensions: for those of a
checkpoint (--like) or given one by one.

The ladder of students: dimensions of each rung, from configs/students.yaml.

`--like CHECKPOINT`: a student with the dimensions of another, such as the compact one that shall be trained on.
"""

import functools
from argparse import Namespace

import yaml
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import TransformerConfig, TransformerModel
from fairseq.models.transformer.transformer_legacy import base_architecture

from fairseq_kd.core.errors import KDError, exit_on_user_error
from fairseq_kd.core.paths import config_folder
from fairseq_kd.inference.checkpoint import read_checkpoint
from fairseq_kd.models.layers import StudentDecoder, StudentEncoder
from fairseq_kd.models.shape import LAYER_OPTIONS
from fairseq_kd.models.sublayers import FFN_TYPES, MORE_ACTIVATIONS

RUNGS = ("3m", "5m", "9m", "17m", "37m", "66m", "146m")
KEYS = ("embed_dim", "ffn_embed_dim", "attention_heads", "encoder_layers", "decoder_layers")


@functools.cache
def dimensions(rung: str) -> dict[str, int]:
    """The dimensions of a rung such as "3m": KEYS -> number; encoder and decoder have the same widths."""
    file = config_folder() / "students.yaml"
    found = yaml.safe_load(file.read_text(encoding="utf-8"))[rung]
    assert tuple(found) == KEYS, f"{file} must give {KEYS} in this order, it gives {tuple(found)}"
    return found


def set_default_dimensions(args, rung: str | None) -> None:
    """Give `args` the dimensions that it does not have yet; None: only what the decoder takes over from the encoder.

    A decoder's width that is not given is the encoder's, also where that was given on the command line.
    """
    found = {} if rung is None else dimensions(rung)
    for name in KEYS:
        if name.endswith("_layers"):
            _set_default(args, name, found.get(name))
            continue
        _set_default(args, f"encoder_{name}", found.get(name))
        _set_default(args, f"decoder_{name}", getattr(args, f"encoder_{name}", None))


def _set_default(args, name: str, value) -> None:
    if value is not None and getattr(args, name, None) is None:
        setattr(args, name, value)


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


@register_model("kd_student")
class KDStudentModel(TransformerModel):
    """fairseq's TransformerModel whose layers may differ in shape and have gated linear units."""

    @classmethod
    def add_args(cls, parser):
        """fairseq's options of the transformer, and those of students."""
        super().add_args(parser)
        choice = next(action for action in parser._actions if action.dest == "activation_fn")
        choice.choices = [*choice.choices, *MORE_ACTIVATIONS]
        parser.add_argument(
            "--ffn-type",
            choices=FFN_TYPES,
            help="plain: activation(x W1) W2; glu: (x V * activation(x W)) W2 (Shazeer 2020), with two thirds of the "
            "inner width and so as many parameters; the activation is that of --activation-fn",
        )
        parser.add_argument(
            "--separate-embeddings",
            action="store_true",
            help="one embedding for the source, another for target and output: where the dictionaries differ",
        )
        for name, text in LAYER_OPTIONS.items():
            parser.add_argument(f"--{name.replace('_', '-')}", metavar="N,N,...", help=f"{text} (0: none)")
        parser.add_argument(
            "--like",
            metavar="CHECKPOINT",
            help="take all dimensions from this student, such as one of fairseq-kd compact",
        )

    @classmethod
    def build_model(cls, args, task):
        """What fairseq calls. A user error ends the process with status 2."""
        if not isinstance(args, Namespace):  # of fairseq-hydra-train; fairseq reads unknown options of Namespaces only
            args = Namespace(**args)
        with exit_on_user_error():
            check_student_options(args, task)
            return super().build_model(args, task)

    @classmethod
    def gated(cls, cfg) -> frozenset[str]:
        """Which of shape.GATED carry gates."""
        return frozenset()

    @classmethod
    def build_encoder(cls, cfg, src_dict, embed_tokens):
        """With gates in a subclass that has them."""
        cfg = TransformerConfig.from_namespace(cfg)
        return StudentEncoder(cfg, src_dict, embed_tokens, gated=cls.gated(cfg))

    @classmethod
    def build_decoder(cls, cfg, tgt_dict, embed_tokens):
        """With gates in a subclass that has them."""
        cfg = TransformerConfig.from_namespace(cfg)
        return StudentDecoder(cfg, tgt_dict, embed_tokens, no_encoder_attn=cfg.no_cross_attention, gated=cls.gated(cfg))


def check_student_options(args, task) -> None:
    """Raises KDError where fairseq would end with a traceback or an option would do nothing."""
    if args.share_all_embeddings and task.source_dictionary != task.target_dictionary:
        raise KDError(
            f"the dictionaries differ ({len(task.source_dictionary):,} source, {len(task.target_dictionary):,} target "
            "types), so one embedding cannot serve both: give --separate-embeddings, or binarise with "
            "--joined-dictionary"
        )
    if args.ffn_type not in FFN_TYPES:
        raise KDError(f"ffn_type {args.ffn_type}: must be one of {', '.join(FFN_TYPES)}")


def student_architecture(args, rung: str | None = None) -> None:
    """Defaults of students where `args` has no value: dimensions of the rung, or fairseq's own where it is None."""
    with exit_on_user_error():
        if getattr(args, "like", None) is not None:
            take_dimensions(args, rung)
        set_default_dimensions(args, rung)
        args.encoder_normalize_before = getattr(args, "encoder_normalize_before", True)
        args.decoder_normalize_before = getattr(args, "decoder_normalize_before", True)
        args.separate_embeddings = getattr(args, "separate_embeddings", False)
        shared = getattr(args, "share_all_embeddings", None)
        if shared and args.separate_embeddings:
            raise KDError("--share-all-embeddings and --separate-embeddings exclude each other: give one")
        args.share_all_embeddings = not args.separate_embeddings
        args.share_decoder_input_output_embed = True
        args.ffn_type = getattr(args, "ffn_type", "plain")
        base_architecture(args)


def register_ladder(model: str) -> None:
    """Register `model` and its rungs, such as kd_student and kd_student_3m, as architectures."""
    register_model_architecture(model, model)(student_architecture)
    for rung in RUNGS:
        register_model_architecture(model, f"{model}_{rung}")(lambda args, rung=rung: student_architecture(args, rung))


register_ladder("kd_student")

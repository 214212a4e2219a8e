"""`--arch kd_student_3m` to `kd_student_146m`: fairseq's transformer in sizes for students.

The students are pre-norm and have one embedding for source, target and output. The file configs/students.yaml gives the
dimensions of each size. Every option of fairseq's transformer still applies. `kd_student` is the same model with
fairseq's default dimensions. It is for dimensions that are given one by one, or that `--like CHECKPOINT` copies from
another student, such as a compact one that continues training.
"""

import functools
from argparse import Namespace

import yaml
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import TransformerConfig, TransformerModel
from fairseq.models.transformer.transformer_legacy import base_architecture

from fairseq_kd.core.errors import KDError, exit_on_user_error
from fairseq_kd.core.hydra_paths import resolve_paths
from fairseq_kd.core.paths import config_folder
from fairseq_kd.inference.checkpoint import read_checkpoint
from fairseq_kd.models.dropout import use_fast_dropout
from fairseq_kd.models.layers import LAYER_OPTIONS, StudentDecoder, StudentEncoder
from fairseq_kd.models.sublayers import FFN_TYPES, MORE_ACTIVATIONS

SIZES = ("3m", "5m", "9m", "17m", "37m", "66m", "146m")
KEYS = ("embed_dim", "ffn_embed_dim", "attention_heads", "encoder_layers", "decoder_layers")


@functools.cache
def dimensions(size: str) -> dict[str, int]:
    """The dimensions of a size such as "3m": KEYS -> number; encoder and decoder have the same widths."""
    file = config_folder() / "students.yaml"
    found = yaml.safe_load(file.read_text(encoding="utf-8"))[size]
    assert tuple(found) == KEYS, f"{file} has the keys {list(found)} for {size}, not {list(KEYS)} in this order"
    return found


def set_default_dimensions(args, size: str | None) -> None:
    """Set the dimensions that `args` does not have to the dimensions of the size.

    The decoder gets the encoder's widths if its own are not given, even if the encoder's are from the command line.
    size: such as "3m"; None: only the decoder's widths are set, from the encoder's.
    """
    found = {} if size is None else dimensions(size)
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


def copy_dimensions(args: Namespace, size: str | None) -> None:
    """Copy the dimensions of the student in the checkpoint `args.like` to `args`.

    Raises KDError when the checkpoint is not a student, and when a size or a dimension is given in addition.
    """
    resolve_paths(args, ("like",))
    path, args.like = args.like, None  # checkpoints of this training record the dimensions and need no other file
    if size is not None:
        raise KDError(f"--like {path} gives all dimensions: give --arch {args.arch.rsplit('_', 1)[0]} with it")
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
    """fairseq's TransformerModel whose layers can have different shapes and gated linear units."""

    @classmethod
    def add_args(cls, parser):
        """Add fairseq's options of the transformer and the options of students."""
        super().add_args(parser)
        choice = next(action for action in parser._actions if action.dest == "activation_fn")
        choice.choices = [*choice.choices, *MORE_ACTIVATIONS]
        parser.add_argument(
            "--ffn-type",
            choices=FFN_TYPES,
            help="plain: activation(x W1) W2; glu: (x V * activation(x W)) W2 (Shazeer 2020), with two thirds of the "
            "inner width and so the same number of parameters; --activation-fn gives the activation",
        )
        parser.add_argument(
            "--separate-embeddings",
            action="store_true",
            help="one embedding for the source and another for target and output, for dictionaries that differ",
        )
        for name, text in LAYER_OPTIONS.items():
            parser.add_argument(f"--{name.replace('_', '-')}", metavar="N,N,...", help=f"{text} (0: none)")
        parser.add_argument(
            "--like",
            metavar="CHECKPOINT",
            help="copy all dimensions from this student, such as one of fairseq-kd compact",
        )

    @classmethod
    def build_model(cls, args, task):
        """Build the model for fairseq. A user error ends the process with status 2."""
        if not isinstance(
            args, Namespace
        ):  # as in fairseq-hydra-train; fairseq reads unknown options only of Namespaces
            args = Namespace(**args)
        with exit_on_user_error():
            check_student_options(args, task)
            model = super().build_model(args, task)
        use_fast_dropout(model)
        return model

    @classmethod
    def gated(cls, cfg) -> frozenset[str]:
        """Which parts of `layers.GATED` have gates."""
        return frozenset()

    @classmethod
    def build_encoder(cls, cfg, src_dict, embed_tokens):
        """The encoder; a subclass can add gates."""
        cfg = TransformerConfig.from_namespace(cfg)
        return StudentEncoder(cfg, src_dict, embed_tokens, gated=cls.gated(cfg))

    @classmethod
    def build_decoder(cls, cfg, tgt_dict, embed_tokens):
        """The decoder; a subclass can add gates."""
        cfg = TransformerConfig.from_namespace(cfg)
        return StudentDecoder(cfg, tgt_dict, embed_tokens, no_encoder_attn=cfg.no_cross_attention, gated=cls.gated(cfg))


def check_student_options(args, task) -> None:
    """Raises KDError where fairseq would end with a traceback or an option would have no effect."""
    if args.share_all_embeddings and task.source_dictionary != task.target_dictionary:
        raise KDError(
            f"the dictionaries differ ({len(task.source_dictionary):,} source and {len(task.target_dictionary):,} "
            "target entries), so they cannot share one embedding: give --separate-embeddings, or binarise with "
            "--joined-dictionary"
        )
    if args.ffn_type not in FFN_TYPES:
        raise KDError(f"ffn_type {args.ffn_type}: must be one of {', '.join(FFN_TYPES)}")


def student_architecture(args, size: str | None = None) -> None:
    """Set the defaults that `args` does not have. size: such as "3m"; None: fairseq's default dimensions."""
    with exit_on_user_error():
        if getattr(args, "like", None) is not None:
            copy_dimensions(args, size)
        set_default_dimensions(args, size)
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


def register_sizes(model: str) -> None:
    """Register `model` and its sizes, such as kd_student and kd_student_3m, as architectures."""
    register_model_architecture(model, model)(student_architecture)
    for size in SIZES:
        register_model_architecture(model, f"{model}_{size}")(lambda args, size=size: student_architecture(args, size))


register_sizes("kd_student")

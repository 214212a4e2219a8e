"""`--arch kd_student_3m` ... `kd_student_146m`: fairseq's transformer in sizes for students.

Pre-norm, one embedding for source, target and output, dimensions of configs/students/*.yaml; every option of fairseq's
transformer still applies. `kd_student` is the same model with fairseq's own default dimensions: for those of a
checkpoint (--like) or given one by one.
"""

from argparse import Namespace

from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import TransformerConfig, TransformerModel
from fairseq.models.transformer.transformer_legacy import base_architecture

from fairseq_kd.errors import KDError, exit_on_user_error
from fairseq_kd.models.feed_forward import FFN_TYPES, MORE_ACTIVATIONS
from fairseq_kd.models.ladder import RUNGS, set_default_dimensions
from fairseq_kd.models.layers import StudentDecoder, StudentEncoder
from fairseq_kd.models.like import take_dimensions
from fairseq_kd.models.shape import LAYER_OPTIONS


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

"""The options of kd_word and their checks: ranges, and combinations that would have no effect.

The divergences and their parameters come from the registry in `fairseq_kd.loss.divergences`.
"""

from dataclasses import dataclass, field, fields, make_dataclass
from typing import Optional

from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterionConfig
from fairseq.dataclass import ChoiceEnum

from fairseq_kd.core.errors import KDError
from fairseq_kd.criterions.no_effect import refuse
from fairseq_kd.criterions.teachers_config import SeveralTeachersConfig, check_teachers
from fairseq_kd.inference.frozen import DTYPES
from fairseq_kd.inference.precision import AUTOCAST
from fairseq_kd.loss.divergences import DIVERGENCES, PARAMETERS
from fairseq_kd.teacher.online import SAME

PATHS = ("teacher", "teacher_cache", "teacher_data", "trust_checkpoint", "kd_start", "kd_start_cache")
PATHS += ("proximal_weights",)
SCHEDULE = "teacher_schedule"  # paths with "," and ":" between them
TEMPERATURES = ("teacher_temperature", "student_temperature")
AUTOCAST_HELP = (  # kd_mutual has the option too
    "bfloat16: train with mixed precision: products in bfloat16; weights, optimizer and validation in float32. On a "
    "CPU it applies to linear layers and to the loss, on CUDA it is torch's autocast"
)


def _divergence_help() -> str:
    known = ", ".join(f"{name} = {divergence.formula}" for name, divergence in DIVERGENCES.items())
    shaped = " and ".join(name for name, divergence in DIVERGENCES.items() if divergence.sees_tail_shapes)
    return (
        f"between teacher p and student q: {known}. {shaped} use the tail shapes of a cache; for the others all tokens "
        "outside of the stored ones are one outcome"
    )


def _scale_help() -> str:
    others = [known for known in DIVERGENCES.values() if known.takes_temperatures and known.temperature_power != 2]
    powers = {0: "1", 1: "T"}
    named = ((known.name, powers.get(known.temperature_power, f"T^{known.temperature_power}")) for known in others)
    exceptions = "".join(f"; for {name} {power} instead of T²" for name, power in named)
    return (
        f"factor λ of the teacher's term: auto (T² when both temperatures are T, else 1{exceptions}), none, or a number"
    )


# One option for each parameter of a divergence.
DivergenceParameters = make_dataclass(
    "DivergenceParameters",
    [(each.name, float, field(default=each.default, metadata={"help": each.help})) for each in PARAMETERS],
    bases=(LabelSmoothedCrossEntropyCriterionConfig,),
    namespace={"__module__": __name__, "__doc__": "Parameters of the divergences, as options of the criterion."},
)


@dataclass
class KDWordConfig(SeveralTeachersConfig, DivergenceParameters):
    """Options of kd_word, in addition to the options of label_smoothed_cross_entropy."""

    teacher: Optional[str] = field(
        default=None,
        metadata={
            "help": "checkpoint of the teacher, written by fairseq-train, or several, joined by ':'. With "
            "--teacher-cache it does not run on the training data; it must be the checkpoint that the cache was made "
            "with"
        },
    )
    teacher_cache: Optional[str] = field(
        default=None,
        metadata={"help": "folder written by fairseq-kd cache, or several, joined by ':'; no teacher runs"},
    )
    teacher_data: Optional[str] = field(
        default=None,
        metadata={"help": "folder with the teacher's dictionaries, if they were moved after its training"},
    )
    trust_checkpoint: Optional[str] = field(
        default=None,
        metadata={
            "help": "load this checkpoint (a teacher, or several, joined by ':') even if it contains objects that can "
            "run code"
        },
    )
    teacher_dtype: ChoiceEnum((SAME, *DTYPES)) = field(
        default=SAME,
        metadata={
            "help": "floating-point type in which the teacher runs. same: the type of the student's products "
            "(--autocast; on CUDA also --fp16, --bf16, --amp)"
        },
    )
    kd_weight: float = field(
        default=0.5, metadata={"help": "weight α of the teacher's term, 0 to 1; the gold tokens have the weight 1 - α"}
    )
    kd_divergence: ChoiceEnum(tuple(DIVERGENCES)) = field(default="kl", metadata={"help": _divergence_help()})
    kd_top_k: int = field(
        default=0,
        metadata={
            "help": "keep the K most probable tokens of a teacher that runs, and one bucket for all others; 0: keep all"
        },
    )
    teacher_temperature: float = field(default=1.0, metadata={"help": "divides the teacher's logits, above 0"})
    student_temperature: float = field(
        default=1.0, metadata={"help": "divides the student's logits in the teacher's term, above 0"}
    )
    kd_scale: str = field(default="auto", metadata={"help": _scale_help()})
    kd_select: ChoiceEnum(("all", "batch", "global")) = field(
        default="all",
        metadata={
            "help": "target tokens that get the teacher's term: all, or the tokens with the highest cross-entropy of "
            "the batch or of the recent tokens (Wang et al. 2021). The others are trained on the gold target alone"
        },
    )
    kd_select_rate: float = field(
        default=0.5,
        metadata={"help": "share of the tokens that --kd-select batch and global select, above 0 and below 1"},
    )
    kd_queue_size: int = field(
        default=30000, metadata={"help": "number of recent tokens that --kd-select global compares with"}
    )
    kd_implementation: ChoiceEnum(("auto", "fused", "reference")) = field(
        default="auto",
        metadata={
            "help": "fused: compute the loss in chunks, from the decoder's features. reference: compute it from whole "
            "rows, with more memory. auto: fused if the student allows it (fairseq's transformers)"
        },
    )
    autocast: ChoiceEnum(AUTOCAST) = field(default="none", metadata={"help": AUTOCAST_HELP})
    kd_matmul_dtype: ChoiceEnum(("same", "bfloat16")) = field(
        default="same", metadata={"help": "replaced by --autocast bfloat16"}
    )
    kd_valid: bool = field(
        default=False,
        metadata={"help": "log kd_loss and agreement on validation sets too; this needs the teacher"},
    )


DEFAULTS = {field.name: field.default for field in fields(KDWordConfig)}


def check_options(cfg, gold_only: bool = True) -> None:
    """Raises KDError for the first option that is out of range or would have no effect.

    gold_only: whether --label-smoothing applies to the gold tokens and to no other target.
    """
    if str(cfg.kd_matmul_dtype) != "same":
        raise KDError(
            f"--kd-matmul-dtype {cfg.kd_matmul_dtype} was replaced: give --autocast bfloat16, which covers the loss "
            "and the linear layers of the student"
        )
    _check_ranges(cfg)
    _check_teacher(cfg)
    check_teachers(cfg)
    _check_divergence(cfg)
    if str(cfg.kd_select) == "all":
        refuse(cfg, ("kd_select_rate", "kd_queue_size"), "without --kd-select", DEFAULTS)
    elif str(cfg.kd_select) == "batch":
        refuse(cfg, ("kd_queue_size",), "with --kd-select batch", DEFAULTS)
    if gold_only and cfg.kd_weight == 1 and cfg.label_smoothing > 0 and str(cfg.kd_select) == "all":
        raise KDError(
            f"--label-smoothing {cfg.label_smoothing} has no effect with --kd-weight 1: the gold tokens have weight 0"
        )
    if cfg.kd_weight == 0:
        refuse(cfg, ("kd_scale", "kd_select"), "with --kd-weight 0", DEFAULTS)


def check_loss(cfg) -> None:
    """Raises KDError for a weight, label smoothing, temperature, scale or ignored prefix that is out of range."""
    if not 0 <= cfg.kd_weight <= 1:
        raise KDError(f"--kd-weight {cfg.kd_weight}: must be from 0 (gold tokens only) to 1 (teacher only)")
    if not 0 <= cfg.label_smoothing < 1:
        raise KDError(f"--label-smoothing {cfg.label_smoothing}: must be from 0 to below 1")
    for side in ("teacher", "student"):
        temperature = getattr(cfg, f"{side}_temperature")
        if not 0 < temperature < float("inf"):
            raise KDError(f"--{side}-temperature {temperature}: must be above 0, because it divides the logits")
    if cfg.kd_scale not in ("auto", "none"):
        try:
            positive = 0 < float(cfg.kd_scale) < float("inf")
        except ValueError:
            positive = False
        if not positive:
            raise KDError(f"--kd-scale {cfg.kd_scale}: must be auto, none or a number above 0")
    if cfg.ignore_prefix_size < 0:
        raise KDError(f"--ignore-prefix-size {cfg.ignore_prefix_size}: must be 0 or a number of tokens")


def _check_ranges(cfg) -> None:
    check_loss(cfg)
    for parameter in PARAMETERS:
        parameter.check(getattr(cfg, parameter.name))
    if not 0 < cfg.kd_select_rate < 1:
        raise KDError(
            f"--kd-select-rate {cfg.kd_select_rate}: must be above 0 and below 1 (--kd-select all selects every token)"
        )
    if cfg.kd_queue_size < 1:
        raise KDError(f"--kd-queue-size {cfg.kd_queue_size}: must be at least 1 token")
    if cfg.kd_top_k < 0:
        raise KDError(f"--kd-top-k {cfg.kd_top_k}: must be 0 (keep all tokens) or a number of tokens")


def _check_teacher(cfg) -> None:
    if cfg.teacher is None and cfg.teacher_cache is None:
        if cfg.kd_weight > 0:
            raise KDError(
                f"--kd-weight {cfg.kd_weight} needs a teacher: give --teacher CHECKPOINT or --teacher-cache FOLDER "
                "(or --kd-weight 0 for plain label-smoothed cross-entropy)"
            )
        parameters = (parameter.name for parameter in PARAMETERS)
        names = (*TEMPERATURES, "kd_divergence", *parameters, "kd_valid")
        refuse(cfg, names, "without --teacher or --teacher-cache", DEFAULTS)
    if cfg.teacher is None:
        if cfg.teacher_cache is not None and cfg.kd_valid:
            raise KDError(
                "--kd-valid needs the teacher on the validation sets, and the cache holds the training set: give "
                "--teacher CHECKPOINT too"
            )
        refuse(cfg, ("teacher_data", "trust_checkpoint", "teacher_dtype", "kd_top_k"), "without --teacher", DEFAULTS)
    if cfg.teacher_cache is not None:
        refuse(cfg, ("kd_top_k",), "with --teacher-cache (k was chosen when the cache was made)", DEFAULTS)
        if not cfg.kd_valid:
            unused = ("teacher_data", "trust_checkpoint", "teacher_dtype")
            refuse(cfg, unused, "with --teacher-cache: the teacher does not run", DEFAULTS)


def _check_divergence(cfg) -> None:
    divergence = DIVERGENCES[str(cfg.kd_divergence)]
    unused = [parameter.name for parameter in PARAMETERS if parameter not in divergence.parameters]
    refuse(cfg, unused, f"with --kd-divergence {divergence.name}", DEFAULTS)
    if not divergence.takes_temperatures:
        refuse(cfg, TEMPERATURES, f"with --kd-divergence {divergence.name}, which does not use temperatures", DEFAULTS)

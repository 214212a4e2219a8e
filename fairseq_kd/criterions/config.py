"""The options of kd_word.

Checks of the options of kd_word: ranges, and combinations that would have no effect.
"""

from dataclasses import dataclass, field, fields
from typing import Optional

from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterionConfig
from fairseq.dataclass import ChoiceEnum

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_one
from fairseq_kd.inference.frozen import DTYPES
from fairseq_kd.loss.objective import DIVERGENCES


@dataclass
class KDWordConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """Options of kd_word, beside those of label_smoothed_cross_entropy."""

    teacher: Optional[str] = field(
        default=None,
        metadata={
            "help": "checkpoint of the teacher, made by fairseq-train; with --teacher-cache it is not run on the "
            "training data, only checked to be the one that the cache was made with"
        },
    )
    teacher_cache: Optional[str] = field(
        default=None, metadata={"help": "folder made by fairseq-kd cache, instead of a teacher that runs"}
    )
    teacher_data: Optional[str] = field(
        default=None,
        metadata={"help": "folder with the teacher's dictionaries, if it is no longer where the teacher was trained"},
    )
    trust_checkpoint: Optional[str] = field(
        default=None,
        metadata={"help": "load this checkpoint (the teacher's) even if it holds objects that can run code"},
    )
    teacher_dtype: ChoiceEnum(tuple(DTYPES)) = field(
        default="float32", metadata={"help": "precision in which the teacher runs"}
    )
    kd_weight: float = field(
        default=0.5, metadata={"help": "weight α of the teacher's term, 0 to 1; the gold tokens weigh 1 - α"}
    )
    kd_divergence: ChoiceEnum(DIVERGENCES) = field(
        default="kl",
        metadata={
            "help": "between teacher p and student q: kl = KL(p||q), reverse_kl = KL(q||p), js, mse (of the logits), "
            "tie (kl and a ranking of the first five, Zhang et al. 2023). kl and tie use the tail shapes of a cache, "
            "for the others all types outside of the stored ones are one outcome"
        },
    )
    js_beta: float = field(
        default=0.5, metadata={"help": "weight of the teacher in the mixture of --kd-divergence js, between 0 and 1"}
    )
    kd_top_k: int = field(
        default=0,
        metadata={
            "help": "keep the K most probable types of a teacher that runs, and one bucket for all others; 0: all"
        },
    )
    teacher_temperature: float = field(default=1.0, metadata={"help": "divides the teacher's logits, above 0"})
    student_temperature: float = field(
        default=1.0, metadata={"help": "divides the student's logits in the teacher's term, above 0"}
    )
    kd_scale: str = field(
        default="auto",
        metadata={
            "help": "factor λ of the teacher's term: auto (T² when both temperatures are T, else 1), none, or a number"
        },
    )
    kd_select: ChoiceEnum(("all", "batch", "global")) = field(
        default="all",
        metadata={
            "help": "tokens that get the teacher's term: all, or those with the highest cross-entropy of the batch or "
            "of the recent tokens (Wang et al. 2021); the others are trained on gold alone"
        },
    )
    kd_select_rate: float = field(
        default=0.5, metadata={"help": "share of the tokens that --kd-select batch and global take, between 0 and 1"}
    )
    kd_queue_size: int = field(
        default=30000, metadata={"help": "number of recent tokens that --kd-select global compares with"}
    )
    kd_implementation: ChoiceEnum(("auto", "fused", "reference")) = field(
        default="auto",
        metadata={
            "help": "fused: the loss in chunks, from the decoder's features; reference: the readable one; auto: fused "
            "where the student allows it (fairseq's transformers without adaptive softmax)"
        },
    )
    kd_matmul_dtype: ChoiceEnum(("same", "bfloat16")) = field(
        default="same",
        metadata={
            "help": "type of the loss's matrix products: same as the student's features, or bfloat16, which is faster "
            "on CPUs that have instructions for it, with logits of 8 significant bits"
        },
    )
    kd_valid: bool = field(
        default=False,
        metadata={"help": "log kd_loss and agreement on validation sets too (the teacher is then needed)"},
    )


DEFAULTS = {field.name: field.default for field in fields(KDWordConfig)}


def check_options(cfg, gold_only: bool = True) -> None:
    """Raises KDError for the first option that is out of range or would do nothing.

    gold_only: the gold tokens are the only ones that --label-smoothing is about.
    """
    _check_ranges(cfg)
    _check_teacher(cfg)
    _check_divergence(cfg)
    if str(cfg.kd_select) == "all":
        refuse(cfg, ("kd_select_rate", "kd_queue_size"), "without --kd-select")
    elif str(cfg.kd_select) == "batch":
        refuse(cfg, ("kd_queue_size",), "with --kd-select batch")
    if gold_only and cfg.kd_weight == 1 and cfg.label_smoothing > 0 and str(cfg.kd_select) == "all":
        raise KDError(
            f"--label-smoothing {cfg.label_smoothing} has no effect with --kd-weight 1: the gold tokens weigh nothing"
        )
    if str(cfg.kd_implementation) == "reference":
        refuse(cfg, ("kd_matmul_dtype",), "with --kd-implementation reference")
    if cfg.kd_weight == 0:
        refuse(cfg, ("kd_scale", "kd_select"), "with --kd-weight 0")


def _check_ranges(cfg) -> None:
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
    if not 0 < cfg.js_beta < 1:
        raise KDError(f"--js-beta {cfg.js_beta}: must be between 0 and 1, without them (0 and 1 give 0 for every pair)")
    if cfg.ignore_prefix_size < 0:
        raise KDError(f"--ignore-prefix-size {cfg.ignore_prefix_size}: must be 0 or a number of tokens")
    if not 0 < cfg.kd_select_rate < 1:
        raise KDError(
            f"--kd-select-rate {cfg.kd_select_rate}: must be above 0 and below 1 (--kd-select all is every token)"
        )
    if cfg.kd_queue_size < 1:
        raise KDError(f"--kd-queue-size {cfg.kd_queue_size}: must be at least 1 token")
    if cfg.kd_top_k < 0:
        raise KDError(f"--kd-top-k {cfg.kd_top_k}: must be 0 (all types) or a number of types")


def _check_teacher(cfg) -> None:
    if cfg.teacher is None and cfg.teacher_cache is None:
        if cfg.kd_weight > 0:
            raise KDError(
                f"--kd-weight {cfg.kd_weight} needs a teacher: give --teacher CHECKPOINT or --teacher-cache FOLDER "
                "(or --kd-weight 0 for plain label-smoothed cross-entropy)"
            )
        of_the_teacher = ("teacher_temperature", "student_temperature", "kd_divergence", "js_beta", "kd_valid")
        refuse(cfg, of_the_teacher, "without --teacher or --teacher-cache")
    for name, kind in (("teacher", "checkpoint"), ("teacher_cache", "cache")):
        if (path := getattr(cfg, name)) is not None:
            check_one(path, f"--{name.replace('_', '-')}", kind)
    if cfg.teacher is None:
        if cfg.teacher_cache is not None and cfg.kd_valid:
            raise KDError(
                "--kd-valid needs the teacher on the validation sets, and the cache holds the training set: give "
                "--teacher CHECKPOINT too"
            )
        refuse(cfg, ("teacher_data", "trust_checkpoint", "teacher_dtype", "kd_top_k"), "without --teacher")
    elif cfg.trust_checkpoint is not None and cfg.trust_checkpoint != cfg.teacher:
        raise KDError(
            f"--trust-checkpoint {cfg.trust_checkpoint} is not the teacher {cfg.teacher}; name the file that you trust"
        )
    if cfg.teacher_cache is not None:
        refuse(cfg, ("kd_top_k",), "with --teacher-cache (k was chosen when the cache was made)")
        if not cfg.kd_valid:
            unused = ("teacher_data", "trust_checkpoint", "teacher_dtype")
            refuse(cfg, unused, "with --teacher-cache: the teacher does not run")


def _check_divergence(cfg) -> None:
    if str(cfg.kd_divergence) != "js":
        refuse(cfg, ("js_beta",), f"with --kd-divergence {cfg.kd_divergence}")
    if str(cfg.kd_divergence) == "mse":
        refuse(cfg, ("teacher_temperature", "student_temperature"), "with --kd-divergence mse, which compares logits")


def refuse(cfg, names, why: str, defaults=DEFAULTS) -> None:
    """Raise KDError for the first of these options that is not at its default."""
    for name in names:
        value, default = getattr(cfg, name), defaults[name]
        if value != default and str(value) != str(default):
            raise KDError(f"--{name.replace('_', '-')} {value} has no effect {why}")

"""The options of kd_word."""

from dataclasses import dataclass, field
from typing import Optional

from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterionConfig
from fairseq.dataclass import ChoiceEnum

from fairseq_kd.loss.objective import DIVERGENCES
from fairseq_kd.teacher.loading import DTYPES


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

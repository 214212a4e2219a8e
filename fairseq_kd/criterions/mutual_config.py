"""The options of kd_mutual and their checks."""

from dataclasses import dataclass, field, fields

from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterionConfig
from fairseq.dataclass import ChoiceEnum

from fairseq_kd.core.errors import KDError
from fairseq_kd.criterions.config import AUTOCAST_HELP, TEMPERATURES, check_loss
from fairseq_kd.criterions.no_effect import refuse
from fairseq_kd.inference.precision import AUTOCAST


@dataclass
class KDMutualConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """Options of kd_mutual, in addition to the options of label_smoothed_cross_entropy."""

    kd_weight: float = field(
        default=0.5,
        metadata={
            "help": "weight α of the term of the other peers, 0 to 1; the gold tokens have the weight 1 - α. 0: each "
            "peer is trained by itself; 1: without the gold tokens, which are then only the prefixes"
        },
    )
    teacher_temperature: float = field(default=1.0, metadata={"help": "divides the logits of the other peers, above 0"})
    student_temperature: float = field(
        default=1.0, metadata={"help": "divides the logits of the peer that learns, in the term of the others, above 0"}
    )
    kd_scale: str = field(
        default="auto",
        metadata={
            "help": "factor λ of the term of the other peers: auto (T² when both temperatures are T, else 1), none, or "
            "a number"
        },
    )
    kd_implementation: ChoiceEnum(("auto", "fused", "reference")) = field(
        default="auto",
        metadata={
            "help": "fused: compute the loss in chunks, from the decoder's features. reference: compute it from whole "
            "rows, with more memory. auto: fused for each peer that allows it (fairseq's transformers)"
        },
    )
    autocast: ChoiceEnum(AUTOCAST) = field(default="none", metadata={"help": AUTOCAST_HELP})


DEFAULTS = {field.name: field.default for field in fields(KDMutualConfig)}


def check_mutual_options(cfg) -> None:
    """Raises KDError for the first option that is out of range or would have no effect."""
    check_loss(cfg)
    if cfg.kd_weight == 1 and cfg.label_smoothing > 0:
        raise KDError(
            f"--label-smoothing {cfg.label_smoothing} has no effect with --kd-weight 1: the gold tokens have weight 0"
        )
    if cfg.kd_weight == 0:
        refuse(cfg, ("kd_scale", *TEMPERATURES), "with --kd-weight 0", DEFAULTS)

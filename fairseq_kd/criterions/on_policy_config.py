"""The options of on-policy distillation and their checks, and the share of sampled prefixes over the updates."""

import math
from dataclasses import dataclass, field, fields
from typing import Optional

from fairseq.dataclass import ChoiceEnum

from fairseq_kd.core.errors import KDError
from fairseq_kd.criterions.config import KDWordConfig, check_options
from fairseq_kd.criterions.no_effect import refuse
from fairseq_kd.criterions.schedule import of_each_part
from fairseq_kd.inference.sampling import SamplingOptions

LAST_GOLD = 200  # at the end of the exponential schedule one prefix in 200 is gold


@dataclass
class OnPolicyConfig(KDWordConfig):
    """All options of kd_word: those of `KDWordConfig`, and those of on-policy distillation."""

    on_policy_rate: float = field(
        default=0.0,
        metadata={
            "help": "probability λ, 0 to 1, that a target is sampled from the student. The teacher's term is computed "
            "on the sample, and the gold target is not used there. With a schedule it is the largest probability"
        },
    )
    on_policy_coin: ChoiceEnum(("batch", "sentence")) = field(
        default="batch",
        metadata={"help": "what one random decision is for: all sentences of a batch (GKD), or each sentence (ImitKD)"},
    )
    on_policy_schedule: ChoiceEnum(("constant", "linear", "exponential")) = field(
        default="constant",
        metadata={
            "help": "probability of a sample at update t. constant: λ; linear: λ t / N; exponential: "
            "λ (1 - 200^(-t/N)), as in ImitKD. N is --on-policy-schedule-updates"
        },
    )
    on_policy_schedule_updates: Optional[int] = field(
        default=None,
        metadata={"help": "number N of updates of a schedule; afterwards the probability stays as it is"},
    )
    on_policy_topk: int = field(
        default=0, metadata={"help": "sample from the student's K most probable tokens; 0: from all"}
    )
    on_policy_max_len_a: float = field(
        default=SamplingOptions.max_len_a,
        metadata={"help": "the longest sample has A * length of the longest source of the batch + B tokens"},
    )
    on_policy_max_len_b: int = field(
        default=SamplingOptions.max_len_b, metadata={"help": "see --on-policy-max-len-a; at least 1"}
    )
    on_policy_part: int = field(
        default=0,
        metadata={
            "help": "for a data-bin of fairseq-kd mix: the number, from 1, of the mixed data-bin whose targets were "
            "decoded by the student. They are treated as samples. 0: the training samples by itself, or not at all"
        },
    )


DEFAULTS = {field.name: field.default for field in fields(OnPolicyConfig)}
SAMPLED = ("on_policy_rate", "on_policy_part")  # the options that say which targets are samples
OTHERS = tuple(name for name in DEFAULTS if name.startswith("on_policy_") and name not in SAMPLED)


def sampled_share(cfg, update: int) -> float:
    """The probability that a target is sampled at an update (0 is the first).

    In ImitKD (Lin et al. 2020, arXiv 2009.07253) the probability of a gold prefix is β, so this is 1 - β, times λ.
    """
    if str(cfg.on_policy_schedule) == "constant":
        return cfg.on_policy_rate
    progress = min(update / cfg.on_policy_schedule_updates, 1.0)
    gold = 1 - progress if str(cfg.on_policy_schedule) == "linear" else LAST_GOLD**-progress
    return cfg.on_policy_rate * (1 - gold)


@of_each_part
def check_word_options(cfg) -> None:
    """Check all options of kd_word. Raises KDError for the first one that is out of range or would have no effect."""
    check_options(cfg)
    if not 0 <= cfg.on_policy_rate <= 1:
        raise KDError(
            f"--on-policy-rate {cfg.on_policy_rate}: must be from 0 (gold prefixes only) to 1 (sampled prefixes only)"
        )
    if cfg.on_policy_part < 0:
        raise KDError(f"--on-policy-part {cfg.on_policy_part}: must be 0 (none) or the number of a mixed data-bin")
    if cfg.on_policy_rate == 0:
        refuse(cfg, OTHERS, "without --on-policy-rate", DEFAULTS)
    else:
        _check_rate(cfg)
    if cfg.on_policy_part > 0:
        _check_other_options(cfg, "on_policy_part")


def _check_rate(cfg) -> None:
    if cfg.on_policy_part > 0:
        raise KDError(
            f"--on-policy-part {cfg.on_policy_part} cannot go with --on-policy-rate: the targets are sampled before "
            "the training, or during it; give one of them"
        )
    _check_ranges(cfg)
    _check_schedule(cfg)
    if cfg.teacher_cache is not None:
        raise KDError(
            f"--on-policy-rate {cfg.on_policy_rate} needs a teacher that runs, because --teacher-cache holds its "
            "answers to the gold prefixes only: give --teacher without --teacher-cache"
        )
    _check_other_options(cfg, "on_policy_rate")
    if cfg.on_policy_rate == 1 and str(cfg.on_policy_schedule) == "constant":
        why = "with --on-policy-rate 1: each target is sampled"
        refuse(cfg, ("on_policy_coin", "label_smoothing"), why, DEFAULTS)


def _check_ranges(cfg) -> None:
    if cfg.on_policy_topk < 0:
        raise KDError(f"--on-policy-topk {cfg.on_policy_topk}: must be 0 (all tokens) or a number of tokens")
    if not 0 <= cfg.on_policy_max_len_a < math.inf:
        raise KDError(f"--on-policy-max-len-a {cfg.on_policy_max_len_a}: must be 0 or above")
    if cfg.on_policy_max_len_b < 1:
        raise KDError(f"--on-policy-max-len-b {cfg.on_policy_max_len_b}: must be at least 1 token")


def _check_schedule(cfg) -> None:
    updates, schedule = cfg.on_policy_schedule_updates, str(cfg.on_policy_schedule)
    if schedule == "constant":
        refuse(cfg, ("on_policy_schedule_updates",), "without --on-policy-schedule linear or exponential", DEFAULTS)
    elif updates is None:
        raise KDError(f"--on-policy-schedule {schedule} needs --on-policy-schedule-updates (a number, at least 1)")
    elif updates < 1:
        raise KDError(f"--on-policy-schedule-updates {updates}: must be at least 1 update")


def _check_other_options(cfg, name: str) -> None:
    """Raises KDError for options that need a gold token at each position. name: of the option with samples."""
    option = f"--{name.replace('_', '-')}"
    if cfg.kd_weight == 0:
        refuse(cfg, (name,), "with --kd-weight 0: samples have the teacher's term only", DEFAULTS)
    for other, value in (("teacher_weights", "adaptive"), ("kd_partition", "supervised")):
        if str(getattr(cfg, other)) == value:
            raise KDError(
                f"--{other.replace('_', '-')} {value} cannot go with {option}: it compares the probabilities of the "
                "gold tokens, and a sampled token is not gold"
            )
    if str(cfg.kd_select) != "all":
        raise KDError(
            f"--kd-select {cfg.kd_select} cannot go with {option}: it compares the cross-entropy of gold tokens, and a "
            "sampled token has none"
        )
    if cfg.ignore_prefix_size > 0:
        raise KDError(
            f"--ignore-prefix-size {cfg.ignore_prefix_size} cannot go with {option}: a sample does not begin with the "
            "prefix of the gold target"
        )

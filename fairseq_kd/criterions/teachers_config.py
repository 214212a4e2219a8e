"""The options of kd_word for several teachers and for data-partitioning KD, and their checks."""

from dataclasses import dataclass, field, fields
from typing import Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_one, listed
from fairseq_kd.criterions.no_effect import refuse
from fairseq_kd.loss.weights import ADAPTIVE, EQUAL, NLL, SENTENCE, TOKEN, Weighting, read_weighting
from fairseq_kd.teacher.several import SUPERVISED, UNSUPERVISED

NONE = "none"
WEIGHTS = ("teacher_weights", "teacher_weight_temperature", "teacher_weights_per")
STOCK_RESTORE_FILE = "checkpoint_last.pt"  # fairseq's default: no file was named


@dataclass
class SeveralTeachersConfig(FairseqDataclass):
    """Options for several teachers, and for a partition of the tokens between the teacher and the student's start."""

    teacher_schedule: Optional[str] = field(
        default=None,
        metadata={
            "help": "in place of --teacher or --teacher-cache: A@2000,B@5000,C: teachers, or caches, that follow each "
            "other; each is used up to and including the update of this number, the last one to the end"
        },
    )
    teacher_weights: str = field(
        default=EQUAL,
        metadata={
            "help": f"weights of several teachers (--teacher A:B): {EQUAL}; {ADAPTIVE}: from the probability that each "
            f"gives the gold token; {NLL}: from the validation nll that each checkpoint records; or numbers such as 2:1"
        },
    )
    teacher_weight_temperature: float = field(
        default=1.0,
        metadata={"help": f"divides the log-probabilities or nlls of --teacher-weights {ADAPTIVE} and {NLL}, above 0"},
    )
    teacher_weights_per: ChoiceEnum((TOKEN, SENTENCE)) = field(
        default=TOKEN, metadata={"help": f"unit that gets its own weights with --teacher-weights {ADAPTIVE}"}
    )
    kd_partition: ChoiceEnum((NONE, SUPERVISED, UNSUPERVISED)) = field(
        default=NONE,
        metadata={
            "help": "let each token learn either from the teacher or from a frozen copy of the student's initial "
            "weights (data-partitioning KD): supervised: from the one that gives the gold token more probability; "
            "unsupervised: from the one that gives its own most probable token more probability"
        },
    )
    kd_partition_per: ChoiceEnum((TOKEN, SENTENCE)) = field(
        default=TOKEN, metadata={"help": "unit that --kd-partition assigns; sentence: by the mean over its tokens"}
    )
    kd_start: Optional[str] = field(
        default=None,
        metadata={
            "help": "checkpoint with the student's initial weights for --kd-partition. Default: the file of "
            "--finetune-from-model, else of --restore-file"
        },
    )
    kd_start_cache: Optional[str] = field(
        default=None,
        metadata={
            "help": "cache of the student's initial weights for --kd-partition with --teacher-cache, written by "
            "fairseq-kd cache --teacher START; neither teacher nor start runs"
        },
    )
    # Values of fairseq's own options, which a criterion does not get otherwise.
    finetune_from_model: Optional[str] = II("checkpoint.finetune_from_model")
    restore_file: str = II("checkpoint.restore_file")


DEFAULTS = {field.name: field.default for field in fields(SeveralTeachersConfig)}


def teachers_of(cfg) -> list[str]:
    """The paths in --teacher."""
    return [] if cfg.teacher is None else listed(cfg.teacher)


def caches_of(cfg) -> list[str]:
    """The folders in --teacher-cache."""
    return [] if cfg.teacher_cache is None else listed(cfg.teacher_cache)


def weighting_of(cfg) -> Weighting:
    """The weighting of several caches, else of the teachers. Raises KDError for weights that do not fit."""
    caches = caches_of(cfg)
    count = len(caches) if len(caches) > 1 else len(teachers_of(cfg))
    options = str(cfg.teacher_weights), count, cfg.teacher_weight_temperature
    return read_weighting(*options, str(cfg.teacher_weights_per))


def start_of(cfg) -> str:
    """The checkpoint with the student's initial weights. Raises KDError when no option names one."""
    if cfg.kd_start is not None:
        return cfg.kd_start
    if cfg.finetune_from_model is not None:
        return cfg.finetune_from_model
    if cfg.restore_file != STOCK_RESTORE_FILE:
        return cfg.restore_file
    raise KDError(
        f"--kd-partition {cfg.kd_partition} needs the student's initial weights: give --kd-start CHECKPOINT, or start "
        "the training with --finetune-from-model CHECKPOINT"
    )


def check_teachers(cfg) -> None:
    """Raises KDError for the first of these options that does not fit or would have no effect."""
    teachers = teachers_of(cfg)
    if cfg.teacher is not None and not teachers:
        raise KDError("--teacher: give a checkpoint, or several joined by ':'")
    if len(caches_of(cfg)) > 1:
        if cfg.kd_valid:
            raise KDError(
                f"--kd-valid with several caches ({cfg.teacher_cache}) is not possible: the weights are of the caches, "
                "not of the teachers. Make one cache of the mixture with fairseq-kd cache --teacher A:B"
            )
        weighting_of(cfg)
    elif len(teachers) < 2:
        refuse(cfg, WEIGHTS, "with fewer than two teachers (--teacher A:B)", DEFAULTS)
    elif cfg.teacher_cache is not None and not cfg.kd_valid:
        refuse(cfg, WEIGHTS, "with --teacher-cache: the teachers do not run", DEFAULTS)
    else:
        weighting_of(cfg)
    starts = _checked_start(cfg)
    trusted = [] if cfg.trust_checkpoint is None else listed(cfg.trust_checkpoint)
    for path in trusted:
        if cfg.teacher is not None and path not in (*teachers, *starts):
            raise KDError(
                f"--trust-checkpoint {path} is not the teacher {cfg.teacher}; name the file that you trust (several: "
                "joined by ':')"
            )


def _checked_start(cfg) -> list[str]:
    """The student's start, if --kd-partition needs it. Raises KDError."""
    if str(cfg.kd_partition) == NONE:
        refuse(cfg, ("kd_partition_per", "kd_start", "kd_start_cache"), "without --kd-partition", DEFAULTS)
        return []
    if cfg.kd_weight == 0:
        refuse(cfg, ("kd_partition",), "with --kd-weight 0", DEFAULTS)
    if cfg.kd_start_cache is not None:
        _check_caches(cfg)
        return []
    if cfg.teacher is None or cfg.teacher_cache is not None:
        raise KDError(
            f"--kd-partition {cfg.kd_partition} needs a teacher that runs, or two caches: give --teacher CHECKPOINT "
            "without --teacher-cache, or --teacher-cache FOLDER with --kd-start-cache FOLDER"
        )
    start = start_of(cfg)
    check_one(start, "--kd-start")
    return [start]


def _check_caches(cfg) -> None:
    """Raises KDError unless teacher and start of --kd-partition are one cache each."""
    check_one(cfg.kd_start_cache, "--kd-start-cache", "cache")
    if cfg.teacher_cache is None:
        raise KDError(
            f"--kd-start-cache {cfg.kd_start_cache} needs --teacher-cache: teacher and start of --kd-partition are "
            "both read from caches, or both run (--teacher with --kd-start)"
        )
    if len(caches_of(cfg)) > 1:
        raise KDError(
            f"--kd-partition needs one cache of the teacher, found {cfg.teacher_cache}: make one cache of the mixture "
            "with fairseq-kd cache --teacher A:B"
        )
    if cfg.kd_valid:
        raise KDError(
            "--kd-valid cannot go with --kd-start-cache: the start does not run, and its cache holds the training set"
        )

"""Checks of the options of kd_word: ranges, and combinations that would have no effect."""

from dataclasses import fields

from fairseq_kd.criterions.config import KDWordConfig
from fairseq_kd.errors import KDError
from fairseq_kd.paths import check_one

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

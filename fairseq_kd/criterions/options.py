"""Checks of the options of kd_word: ranges, and combinations that would have no effect."""

from fairseq_kd.errors import KDError


def check_options(cfg) -> None:
    """Raises KDError for the first option that is out of range or would do nothing."""
    _check_ranges(cfg)
    if cfg.teacher is None:
        _refuse_without_teacher(cfg)
    elif cfg.trust_checkpoint is not None and cfg.trust_checkpoint != cfg.teacher:
        raise KDError(
            f"--trust-checkpoint {cfg.trust_checkpoint} is not the teacher {cfg.teacher}; name the file that you trust"
        )
    if cfg.kd_weight == 1 and cfg.label_smoothing > 0:
        raise KDError(
            f"--label-smoothing {cfg.label_smoothing} has no effect with --kd-weight 1: the gold tokens weigh nothing"
        )
    if cfg.kd_weight == 0 and cfg.kd_scale != "auto":
        raise KDError(f"--kd-scale {cfg.kd_scale} has no effect with --kd-weight 0")


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


def _refuse_without_teacher(cfg) -> None:
    if cfg.kd_weight > 0:
        raise KDError(
            f"--kd-weight {cfg.kd_weight} needs a teacher: give --teacher CHECKPOINT (or --kd-weight 0 for plain "
            "label-smoothed cross-entropy)"
        )
    defaults = {
        "teacher_data": None,
        "trust_checkpoint": None,
        "teacher_dtype": "float32",
        "teacher_temperature": 1.0,
        "student_temperature": 1.0,
        "kd_valid": False,
    }
    for name, default in defaults.items():
        value = getattr(cfg, name)
        if (str(value) if name == "teacher_dtype" else value) != default:
            raise KDError(f"--{name.replace('_', '-')} {value} has no effect without --teacher")

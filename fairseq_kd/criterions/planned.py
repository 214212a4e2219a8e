"""Checks of a training that is planned and not built yet, from the options that fairseq has parsed."""

from fairseq_kd.criterions.on_policy_config import check_word_options
from fairseq_kd.inference.supported import check_autoregressive


def check_planned(args) -> None:
    """Check the parsed options of a training by kd_word, and its architecture.

    Raises KDError for an option out of range or without effect, and for a non-autoregressive architecture.
    """
    from fairseq.models import ARCH_MODEL_REGISTRY

    check_word_options(args)
    check_autoregressive(ARCH_MODEL_REGISTRY[args.arch], f"--arch {args.arch}")

"""The divergences between teacher and student, by name. `base` says what a divergence is, and how to add one."""

from fairseq_kd.loss.divergences import kl, mixture, pointwise  # noqa: F401  (they register their classes)
from fairseq_kd.loss.divergences.base import DIVERGENCES, Divergence, Parameter, register

PARAMETERS = tuple({each.name: each for known in DIVERGENCES.values() for each in known.parameters}.values())

__all__ = ["DIVERGENCES", "PARAMETERS", "Divergence", "Parameter", "register"]

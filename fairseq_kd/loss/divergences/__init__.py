"""The divergences between teacher and student, by name. `base` says what a divergence is, and how to add one."""

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.public import errors_name_arguments
from fairseq_kd.loss.divergences import kl, mixture, pointwise  # noqa: F401  (they register their classes)
from fairseq_kd.loss.divergences.base import DIVERGENCES, Divergence, Parameter, register

PARAMETERS = tuple({each.name: each for known in DIVERGENCES.values() for each in known.parameters}.values())

__all__ = ["DIVERGENCES", "PARAMETERS", "Divergence", "Parameter", "make_divergence", "register"]


@errors_name_arguments(name="kd-divergence")
def make_divergence(name: str = "kl", **parameters: float) -> Divergence:
    """The divergence with this name and these values of its parameters; the others have their defaults.

    Raises KDError for an unknown name or parameter, and for a value out of range.
    """
    if name not in DIVERGENCES:
        raise KDError(f"there is no divergence {name!r}; it must be one of {', '.join(DIVERGENCES)}")
    known = [parameter.name for parameter in DIVERGENCES[name].parameters]
    if unknown := [parameter for parameter in parameters if parameter not in known]:
        raise KDError(f"the divergence {name} has no parameter {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    return DIVERGENCES[name](**parameters)

"""Options that a study sets itself, so that nothing else may: in the sections of its spec, or by a factor."""

from fairseq_kd.errors import KDError
from fairseq_kd.training.options import RESERVED

_OF_TRAININGS = (*RESERVED, "max-update")
_OF_TEACHERS_OUTPUT = ("teacher", "out", "shard", "subset", "cpu")
IN_SECTIONS = {
    "common": _OF_TRAININGS,
    "teacher": tuple(name for name in _OF_TRAININGS if name != "seed"),
    "student": _OF_TRAININGS,
    "kd": RESERVED,
    "cache": _OF_TEACHERS_OUTPUT,
    "decode": (*_OF_TEACHERS_OUTPUT, "tokenize"),
    "data": ("out",),
    "evaluate": ("checkpoint", "subset", "out", "cpu"),
    "select": ("checkpoints", "by", "out", "cpu", "average", "out-checkpoint", "tokenize"),
    "noise": ("prefix", "data-bin", "subset", "out", "source-lang", "target-lang"),
}
# what a section may say, and what is then the same for all cells
NO_FACTORS = {"evaluate": ("subsets", "noise", "tokenize"), "data": ("raw", "name", "source-lang", "target-lang")}
_REMEDIES = {
    "max-update": ("give it in budget", "vary budget.student or budget.teacher"),
    "seed": ("give it as a factor", "vary seed, or teacher.seed"),
    "criterion": ("vary method", "vary method"),
    "tokenize": ("give it in evaluate", "give it in evaluate"),
    "by": ("vary teacher-choice", "vary teacher-choice"),
}


def check_section(path, section: str, options: dict) -> None:
    """Raises KDError for an option that the study sets, and says where it is to be given."""
    for key in options:
        if key in IN_SECTIONS.get(section, ()):
            remedy = _REMEDIES.get(key, ("leave it out",))[0]
            raise KDError(f"{path}: {key} in {section} is set by the study; {remedy}")


def check_route(path, factor: str, section: str, option: str) -> None:
    """Raises KDError for a factor whose values would be overridden, and so make the same cell again and again."""
    if option in IN_SECTIONS.get(section, ()):
        remedy = _REMEDIES.get(option, ("", "take it out of the factors"))[1]
        raise KDError(f"{path}: the factor {factor} has no effect: {option} in {section} is set by the study; {remedy}")
    if option in NO_FACTORS.get(section, ()):
        raise KDError(f"{path}: {option} in {section} is one for all cells, so it is no factor; give it in {section}")

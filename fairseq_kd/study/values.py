"""What single values of a spec must be, as far as the programs that get them would not say it, or too late.

Options that a study sets itself, so that nothing else may: in the sections of its spec, or by a factor.
"""

from pathlib import Path

from fairseq_kd.core.errors import KDError
from fairseq_kd.training.options import RESERVED

SHARES = ("delete", "substitute", "swap")  # of the level of noise
SEEDS = 2**31  # numpy takes a little more, and fairseq adds the number of the epoch


def check_updates(path, where: str, value) -> None:
    """Raises KDError unless `value` is a number of updates; fairseq takes 0 for "without end"."""
    if type(value) is not int or value < 1:
        raise KDError(f"{path}: {where} must be a whole number of updates from 1, found {value!r}")


def check_seed(path, where: str, value) -> None:
    """Raises KDError unless `value` is a seed that every library takes."""
    if type(value) is not int or not 0 <= value < SEEDS:
        raise KDError(f"{path}: {where} has the value {value!r}; seeds are whole numbers from 0 to below 2^31")


def check_noise_level(path, where: str, level) -> None:
    """Raises KDError unless `level` is a percentage."""
    if not is_number(level) or not 0 <= level <= 100:
        raise KDError(f"{path}: noise {level!r} in {where} must be a percentage of the words, from 0 to 100")


def check_mix(path, value) -> None:
    """Raises KDError unless gold data can stand so many times beside the teacher's targets."""
    if not is_number(value) or not 0 <= value < float("inf"):
        raise KDError(f"{path}: mix-gold in factors must be a number from 0, found {value!r}")


def check_shares(path, noise: dict) -> None:
    """Raises KDError unless the level of noise can be shared out among the three operations."""
    for name in SHARES:
        if not is_number(noise[name]) or not 0 <= noise[name] < float("inf"):
            raise KDError(f"{path}: {name} in noise is its share of the level, a number from 0, found {noise[name]!r}")
    if not any(noise[name] for name in SHARES):
        raise KDError(f"{path}: {', '.join(SHARES)} in noise are all 0, so no word would be changed; give one above 0")


def check_text(path, where: str, value) -> None:
    """Raises KDError unless `value` is text; YAML reads `no` as false."""
    if not isinstance(value, str | Path) or not str(value):
        raise KDError(f"{path}: {where} must be text, found {value!r}: put it in quotes")


def is_number(value) -> bool:
    """Whether `value` is a number, which true and false are not here."""
    return isinstance(value, int | float) and not isinstance(value, bool)


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

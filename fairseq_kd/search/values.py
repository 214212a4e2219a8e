"""The parameters of a search and their values, as they stand in its spec."""

from dataclasses import fields
from pathlib import Path

from fairseq_kd.core.errors import KDError
from fairseq_kd.search.optuna_sampler import Range
from fairseq_kd.search.strategies import SAME
from fairseq_kd.study.routes import CHOICES, routes
from fairseq_kd.training.options import check_keys, nearest

CHOICE = "teacher-choice"


def option_names() -> tuple[str, ...]:
    """What can be searched: the choice of the teacher, and options of kd_word."""
    return (CHOICE, *option_defaults())


def option_defaults() -> dict:
    """The options of kd_word that say how it distils -> what they are when they are not given."""
    from fairseq_kd.criterions.config import KDWordConfig  # and with it fairseq

    found = {field.name.replace("_", "-"): simplest(field.default) for field in fields(KDWordConfig)}
    return {name: default for name, default in found.items() if routes(name)[0].startswith("kd.")}


def simplest(value):
    """1.0 -> 1, so that 1 and 1.0 are one experiment: stages are keyed by the words of their commands."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def read_parameters(path: Path, given, algorithm: str) -> list:
    """[(option, values or Range)]. Raises KDError that names the key or value at fault and the nearest valid one."""
    check_keys(path, "parameters", given, option_names())
    return [(name, _values(f"{path}: the parameter {name}", name, values, algorithm)) for name, values in given.items()]


def _values(where: str, name: str, values, algorithm: str):
    if isinstance(values, dict):
        return _range(where, values, algorithm)
    if not isinstance(values, list) or not values:
        raise KDError(f"{where} needs a list of values such as [1, 2], found {values!r}")
    for value in values:
        check_value(where, name, value)
    return tuple(map(simplest, values))


def check_value(where: str, name: str, value) -> None:
    """Raises KDError for a value that an option cannot have, as far as the programs would not say it better."""
    if isinstance(value, list | dict) or value is None:
        raise KDError(f"{where} has the value {value!r}; a value must be a word, a number, true or false")
    if name == CHOICE and value not in CHOICES[CHOICE]:
        closest = nearest(value, CHOICES[CHOICE])
        raise KDError(f"{where} has the value {value!r}; the nearest valid one is {closest!r}")
    if value == SAME and name != "student-temperature":
        raise KDError(f"{where} has the value {SAME!r}, which only student-temperature can have")


def _range(where: str, given: dict, algorithm: str) -> Range:
    if algorithm != "optuna":
        raise KDError(f"{where}: {algorithm} needs a list of values; only optuna takes a range")
    check_keys(where, "the range", given, ("low", "high", "log"), required=("low", "high"))
    for end in ("low", "high"):
        if isinstance(given[end], bool) or not isinstance(given[end], int | float):
            raise KDError(f"{where}: {end} must be a number, found {given[end]!r}")
    if not isinstance(given.get("log", False), bool):
        raise KDError(f"{where}: log must be true or false, found {given['log']!r}")
    try:
        return Range(given["low"], given["high"], given.get("log", False))
    except KDError as error:
        raise KDError(f"{where}: {error}") from error

"""Factors -> cells: every combination of values, without what is excluded or would be the same experiment."""

import itertools
import re
from dataclasses import dataclass

from fairseq_kd.errors import KDError
from fairseq_kd.study.exclude import check_exclusions, read_exclusions
from fairseq_kd.study.spec import BUDGETS, TRAINED, Spec, check_noise_level
from fairseq_kd.training.options import check_keys, nearest

METHODS = ("ce", "word", "seq", "word+seq")
CHOICES = {
    "method": METHODS,
    "teacher-choice": ("low-loss", "high-score"),
    "teacher-noise": ("same", "clean"),
    "signal": ("cache", "online"),
    "compact": (True, False),
}
DEFAULTS = {"teacher-choice": None, "teacher-noise": "same", "signal": "cache", "compact": False}
DEFAULTS |= {"noise": 0, "seed": 1, "mix-gold": 0}
SPECIAL = ("method", *DEFAULTS)
ALIASES = {
    "strategy": ("decode.strategy",),
    "divergence": ("kd.kd-divergence",),
    "alpha": ("kd.kd-weight",),
    "temperature": ("kd.teacher-temperature", "kd.student-temperature"),
}
KD_OPTIONS = ("teacher-temperature", "student-temperature", "js-beta", "teacher-dtype")  # and all of kd-*
OPTION_SECTIONS = ("data", *TRAINED, "select", "kd", "cache", "decode", "noise", "evaluate")


@dataclass(frozen=True)
class Cell:
    """One student: the values of the factors that concern it, and the options that follow.

    settings: SPECIAL name -> value, and section -> options.
    """

    name: str
    factors: dict
    settings: dict


@dataclass(frozen=True)
class Cells:
    """The cells of a study, and how many combinations were excluded or repeat another cell."""

    cells: list
    excluded: int
    repeated: int


def make_cells(spec: Spec) -> Cells:
    """Raises KDError for factors and exclusions that cannot be used, naming what is wrong."""
    factors = _check_factors(spec)
    exclusions = read_exclusions(spec, factors)
    combinations = [dict(zip(factors, values, strict=True)) for values in itertools.product(*factors.values())]
    concerned = [_concerning(spec, combination) for combination in combinations]
    kept = [values for values in concerned if not any(exclusion.removes(values) for exclusion in exclusions)]
    check_exclusions(spec, factors, exclusions, concerned, kept)
    _check_sections(spec, kept)
    unique = list({tuple(values.items()): values for values in kept}.values())
    varying = [name for name in factors if len(factors[name]) > 1 or isinstance(spec.factors[name], dict)] or ["method"]
    cells = [Cell(_name(values, varying), values, _settings(spec, values)) for values in unique]
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names), f"cells with one name: {names}"
    return Cells(cells, excluded=len(combinations) - len(kept), repeated=len(kept) - len(unique))


def _check_factors(spec: Spec) -> dict:
    """Factor -> list of values; labelled values (a mapping) become the list of their labels."""
    check_keys(spec.path, "factors", spec.factors, valid=tuple(spec.factors or ()), required=("method",))
    factors = {}
    for name, values in spec.factors.items():
        values = values if isinstance(values, list | dict) else [values]
        if not values or values == [None]:
            raise KDError(f"{spec.path}: the factor {name} has no values; give a list such as {name}: [1, 2]")
        if isinstance(values, dict):
            _check_labelled(spec, name, values)
        for value in values:
            _check_value(spec, name, value, labelled=isinstance(values, dict))
        if len({str(value) for value in values}) < len(values):
            raise KDError(f"{spec.path}: the factor {name} has a value twice: {', '.join(map(str, values))}")
        factors[name] = list(values)
    return factors


def _check_labelled(spec: Spec, name: str, values: dict) -> None:
    if name in SPECIAL or name in ALIASES:
        raise KDError(f"{spec.path}: the factor {name} takes a list of values; labelled values need another name")
    for label, options in values.items():
        check_keys(spec.path, f"the value {label!r} of the factor {name}", options, valid=tuple(options or ()))
        for key, value in options.items():
            _check_value(spec, key, value, labelled=False)


def _check_value(spec: Spec, name: str, value, labelled: bool) -> None:
    where = f"{spec.path}: the factor {name}"
    if isinstance(value, list | dict) or value is None:
        raise KDError(f"{where} has the value {value!r}; a value must be a word, a number, true or false")
    if labelled:
        return
    if name in CHOICES and value not in CHOICES[name]:
        raise KDError(f"{where} has the value {value!r}; the nearest valid one is {nearest(value, CHOICES[name])!r}")
    if name == "noise":
        check_noise_level(spec.path, "factors", value)
    if name == "seed" and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise KDError(f"{where} has the value {value!r}; seeds are whole numbers from 0")
    section, _, option = name.rpartition(".")
    if section and section not in (*OPTION_SECTIONS, "budget"):
        raise KDError(f"{where} is of the unknown section {section!r}; the nearest valid one is "
                      f"{nearest(section, OPTION_SECTIONS)!r}")  # fmt: skip
    if section == "budget":
        check_keys(spec.path, "the factor budget", {option: value}, valid=BUDGETS)


def routes(name: str) -> tuple[str, ...]:
    """Where the value of a factor goes: "section.option", or the name of a special factor."""
    if name in SPECIAL or "." in name:
        return (name,)
    if name in ALIASES:
        return ALIASES[name]
    return (f"kd.{name}" if name.startswith("kd-") or name in KD_OPTIONS else f"student.{name}",)


def _assignments(spec: Spec, name: str, value) -> dict:
    """Route -> value of one factor's value."""
    if isinstance(spec.factors[name], dict):
        given = spec.factors[name][value]
    else:
        given = {name: value}
    return {route: value for key, value in given.items() for route in routes(key)}


def _matters(route: str, values: dict) -> bool:
    """Whether the option has an effect on a cell with these special values."""
    section, method, distils = route.partition(".")[0], values["method"], values["method"] != "ce"
    if route in ("teacher-choice", "budget.teacher") or section == "teacher":
        return distils
    if section in ("kd", "signal"):
        return "word" in method
    if section == "select":
        return distils and values["teacher-choice"] is not None
    if section == "cache":
        return "word" in method and values["signal"] == "cache"
    if section in ("decode", "mix-gold"):
        return "seq" in method
    if route == "teacher-noise":
        return distils and values["noise"] > 0
    return True


def _concerning(spec: Spec, combination: dict) -> dict:
    """The factors of a combination that have an effect, in the order of the spec."""
    given = {name: _assignments(spec, name, value) for name, value in combination.items()}
    special = dict(DEFAULTS)
    for assignments in given.values():
        special |= {route: value for route, value in assignments.items() if route in SPECIAL}
    return {name: combination[name] for name in combination if any(_matters(r, special) for r in given[name])}


def _check_sections(spec: Spec, kept: list) -> None:
    """What the spec itself says about teachers, caches and so on must concern a cell."""
    cells = [_settings(spec, values) for values in kept]
    for section in ("teacher", "select", "kd", "cache", "decode", "noise"):
        used = any(_matters(section, cell | {"noise": cell["noise-level"]}) for cell in cells)
        if section == "noise":
            used = any(cell["noise-level"] for cell in cells) or any(spec.sections["evaluate"]["noise"])
        if section in spec.written and not used:
            raise KDError(f"{spec.path}: the section {section} has no effect on any cell; leave it out")
    for cell in cells:
        training = cell["common"] | cell["teacher"]
        several = "save-interval-updates" in training and training.get("keep-interval-updates", -1) != 1
        if cell["teacher-choice"] is not None and not several:
            raise KDError(
                f"{spec.path}: teacher-choice needs a teacher with several checkpoints: give save-interval-updates in "
                "the section teacher, and keep-interval-updates above 1 if at all"
            )
    for who in BUDGETS:
        if (
            "budget" in cells[0]
            and who not in spec.sections["budget"]
            and any(_matters(f"budget.{who}", c | {"noise": 0}) for c in cells)
        ):
            raise KDError(f"{spec.path}: budget lacks {who!r}, the number of updates")


def _settings(spec: Spec, values: dict) -> dict:
    settings = dict(DEFAULTS) | {name: dict(options) for name, options in spec.sections.items()}
    noise = 0
    for name, value in values.items():
        for route, assigned in _assignments(spec, name, value).items():
            section, _, option = route.rpartition(".")
            if not section and route == "noise":
                noise = assigned
            elif section:
                settings[section][option] = assigned
            else:
                settings[route] = assigned
    return settings | {"noise-level": noise}


def _name(values: dict, varying: list) -> str:
    words = [f"{name}={value}" for name, value in values.items() if name in varying]
    return re.sub(r"[^\w.,=+%-]+", "_", ",".join(words))

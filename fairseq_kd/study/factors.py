"""Factors -> cells: every combination of values, without what is excluded or would be the same experiment.

Exclusions: patterns of factor values that take cells out of a study.
"""

import hashlib
import itertools
import re
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase

from fairseq_kd.core.errors import KDError
from fairseq_kd.study.routes import DEFAULTS, SPECIAL, assignments, check_factors, routes_of_values
from fairseq_kd.study.spec import BUDGETS, Spec
from fairseq_kd.study.values import check_shares
from fairseq_kd.training.options import check_keys, nearest


class Exclusion:
    """A pattern: factor -> value, glob, or list of them; it removes the cells that agree in all."""

    def __init__(self, spec: Spec, number: int, pattern, factors: dict):
        self.where = f"exclusion {number}"
        check_keys(spec.path, self.where, pattern, valid=tuple(factors))
        if not pattern:
            raise KDError(f"{spec.path}: {self.where} is empty, so it would remove every cell; name a factor")
        self.pattern = {name: value if isinstance(value, list) else [value] for name, value in pattern.items()}
        for name, wanted in self.pattern.items():
            for value in wanted:
                if isinstance(value, list | dict) or value is None:
                    raise KDError(f"{spec.path}: {self.where}: {name} must be a value or a list of values")
                if not any(_agrees(value, known) for known in factors[name]):
                    raise KDError(f"{spec.path}: {self.where}: the factor {name} has no value {value!r}; the nearest "
                                  f"is {nearest(value, factors[name])!r}")  # fmt: skip

    def removes(self, values: dict) -> bool:
        """Whether the cell with these values of factors is left out."""
        return all(
            name in values and any(_agrees(value, values[name]) for value in wanted)
            for name, wanted in self.pattern.items()
        )


def read_exclusions(spec: Spec, factors: dict) -> list[Exclusion]:
    """The exclusions of a spec. Raises KDError for an unknown factor or value, naming the nearest."""
    if not isinstance(spec.exclude, list):
        raise KDError(f"{spec.path}: exclude must be a list of patterns, found {type(spec.exclude).__name__}")
    return [Exclusion(spec, number, pattern, factors) for number, pattern in enumerate(spec.exclude, start=1)]


def _agrees(pattern, value) -> bool:
    if isinstance(pattern, str) and isinstance(value, str):
        return fnmatchcase(value, pattern)
    return pattern == "*" or (pattern == value and isinstance(pattern, bool) == isinstance(value, bool))


def check_exclusions(spec: Spec, factors: dict, exclusions: list, concerned: list, kept: list) -> None:
    """Raises KDError for exclusions that remove nothing, everything, or every cell of a value.

    concerned: the factors of each combination that have an effect. kept: those that are not excluded.
    """
    for exclusion in exclusions:
        if not any(exclusion.removes(values) for values in concerned):
            raise KDError(f"{spec.path}: {exclusion.where} contradicts itself: no cell has {exclusion.pattern}, "
                          "because one of these factors has no effect where the other has that value")  # fmt: skip
    if not kept:
        count = len({tuple(values.items()) for values in concerned})
        raise KDError(f"{spec.path}: the exclusions remove all {count} cells; leave one of them out")
    for name, values in factors.items():
        if not any(name in cell for cell in concerned):
            raise KDError(f"{spec.path}: the factor {name} has no effect with method "
                          f"{', '.join(factors['method'])}")  # fmt: skip
        for value in values:
            if not any(cell.get(name) == value for cell in concerned):
                raise KDError(f"{spec.path}: the value {value} of the factor {name} has no effect with method "
                              f"{', '.join(factors['method'])}; leave it out")  # fmt: skip
            if not any(cell.get(name) == value for cell in kept):
                raise KDError(f"{spec.path}: the exclusions contradict the factors: together they leave no cell with "
                              f"{name} {value}; take it out of the factor, or out of an exclusion")  # fmt: skip


LONGEST_NAME = 200  # bytes; cells are names of folders
HASH_LENGTH = 6


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
    factors = check_factors(spec)
    exclusions = read_exclusions(spec, factors)
    combinations = [dict(zip(factors, values, strict=True)) for values in itertools.product(*factors.values())]
    concerned = [_concerning(spec, combination) for combination in combinations]
    kept = [values for values in concerned if not any(exclusion.removes(values) for exclusion in exclusions)]
    check_exclusions(spec, factors, exclusions, concerned, kept)
    for values in kept:
        _check_overriding(spec, values)
    _check_sections(spec, kept)
    unique = list({tuple(values.items()): values for values in kept}.values())
    varying = [name for name in factors if len(factors[name]) > 1 or isinstance(spec.factors[name], dict)] or ["method"]
    names = _names([{name: value for name, value in values.items() if name in varying} for values in unique])
    cells = [Cell(name, values, _settings(spec, values)) for name, values in zip(names, unique, strict=True)]
    return Cells(cells, excluded=len(combinations) - len(kept), repeated=len(kept) - len(unique))


def _matters(route: str, values: dict) -> bool:
    """Whether the option has an effect on a cell with these special values, and `noisy`: it has noise somewhere."""
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
    return values["noisy"] if route.startswith("noise.") else True


def _concerning(spec: Spec, combination: dict) -> dict:
    """The factors of a combination that have an effect, in the order of the spec."""
    given = {name: routes_of_values(spec, name, value) for name, value in combination.items()}
    assigned = [pair for name, value in combination.items() for pair in assignments(spec, name, value)]
    special = dict(DEFAULTS) | {route: value for route, value in assigned if route in SPECIAL}
    special["noisy"] = special["noise"] > 0 or any(spec.sections["evaluate"]["noise"])
    return {name: combination[name] for name in combination if any(_matters(r, special) for r in given[name])}


def _check_overriding(spec: Spec, values: dict) -> None:
    """Two factors of a cell that set the same option would be one, and its values labelled wrongly."""
    setters = {}
    for name, value in values.items():
        for route, _ in assignments(spec, name, value):
            if route in setters:
                both = f"the factors {setters[route]} and {name} both set" if setters[route] != name else (
                    f"the value {value} of the factor {name} sets twice"
                )  # fmt: skip
                raise KDError(f"{spec.path}: {both} {route}, so one would override the other; leave one of them out")
            setters[route] = name


def _check_sections(spec: Spec, kept: list) -> None:
    """What the spec itself says about teachers, caches and so on must concern a cell."""
    cells = [_settings(spec, values) for values in kept]
    noisy = any(spec.sections["evaluate"]["noise"])
    special = [cell | {"noise": cell["noise-level"], "noisy": cell["noise-level"] or noisy} for cell in cells]
    for section in ("teacher", "select", "kd", "cache", "decode", "noise"):
        if section in spec.written and not any(_matters(f"{section}.", cell) for cell in special):
            raise KDError(f"{spec.path}: the section {section} has no effect on any cell; leave it out")
    for cell in cells:
        check_shares(spec.path, cell["noise"])
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
        for route, assigned in assignments(spec, name, value):
            section, _, option = route.rpartition(".")
            if not section and route == "noise":
                noise = assigned
            elif section:
                settings[section][option] = assigned
            else:
                settings[route] = assigned
    return settings | {"noise-level": noise}


def _names(cells: list[dict]) -> list[str]:
    """A folder for each cell, named by its values; with a hash of these where it would be too long, or not its own."""
    words = [",".join(f"{name}={value}" for name, value in values.items()) for values in cells]
    names = [re.sub(r"[^\w.,=+%-]+", "_", word) for word in words]
    counts = Counter(names)
    return [
        name if counts[name] == 1 and len(name.encode()) <= LONGEST_NAME else _with_hash(name, word)
        for name, word in zip(names, words, strict=True)
    ]


def _with_hash(name: str, word: str) -> str:
    kept = name.encode()[:LONGEST_NAME].decode(errors="ignore")
    return f"{kept}-{hashlib.sha256(word.encode()).hexdigest()[:HASH_LENGTH]}"

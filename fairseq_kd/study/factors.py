"""Factors -> cells: every combination of values, without what is excluded or would be the same experiment."""

import hashlib
import itertools
import re
from collections import Counter
from dataclasses import dataclass

from fairseq_kd.errors import KDError
from fairseq_kd.study.exclude import check_exclusions, read_exclusions
from fairseq_kd.study.routes import DEFAULTS, SPECIAL, assignments, check_factors, routes_of_values
from fairseq_kd.study.spec import BUDGETS, Spec
from fairseq_kd.study.values import check_shares

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

"""Cells: every combination of the factors' values, except excluded combinations and combinations that repeat another
cell.

A factor whose settings have no effect on a cell, such as a decoding strategy with method ce, is not a part of that
cell, so combinations that differ in it alone are one cell.
"""

import hashlib
import itertools
import re
from collections import Counter
from dataclasses import dataclass

from fairseq_kd.core.errors import KDError
from fairseq_kd.study.effects import has_effect
from fairseq_kd.study.exclusions import check_exclusions, read_exclusions
from fairseq_kd.study.factors import (
    DEFAULTS,
    SETTINGS,
    assignments,
    check_factors,
    settings_of_value,
)
from fairseq_kd.study.methods import FEDERATED, STUDENT_DECODE
from fairseq_kd.study.parts import PART, WHOLE, check_exists, expanded, has_others, number_of_parts
from fairseq_kd.study.sections import BUDGETS, EXISTING, check_shares
from fairseq_kd.study.spec import Spec
from fairseq_kd.study.teachers import TEACHERS, assigned_by, is_checkpoint
from fairseq_kd.study.transfer import with_transfer

LONGEST_NAME = 200  # bytes: the name of a cell is the name of a folder
HASH_LENGTH = 6


@dataclass(frozen=True)
class Cell:
    """One student: the values of the factors that have an effect on it, and all its settings.

    settings: each of SETTINGS -> value (`noise-level` for `noise`), and section -> options; `assigned`: the settings
    that factors have assigned.
    """

    name: str
    factors: dict
    settings: dict


@dataclass(frozen=True)
class Cells:
    """The cells of a study, and the numbers of combinations that are excluded or repeat another cell."""

    cells: list
    excluded: int
    repeated: int


def make_cells(spec: Spec) -> Cells:
    """The cells of a spec. Raises KDError for factors, exclusions and sections that cannot be used."""
    factors = check_factors(spec)
    exclusions = read_exclusions(spec, factors)
    combinations = [dict(zip(factors, values, strict=True)) for values in itertools.product(*factors.values())]
    effective = [_effective(spec, combination) for combination in combinations]
    kept = [values for values in effective if not any(exclusion.removes(values) for exclusion in exclusions)]
    check_exclusions(spec, factors, exclusions, effective, kept)
    for values in kept:
        _check_overriding(spec, values)
    _check_sections(spec, kept)
    unique = list({tuple(values.items()): values for values in kept}.values())
    varying = [name for name in factors if len(factors[name]) > 1 or isinstance(spec.factors[name], dict)] or ["method"]
    names = _names([{name: value for name, value in values.items() if name in varying} for values in unique])
    cells = [Cell(name, values, _settings(spec, values)) for name, values in zip(names, unique, strict=True)]
    return Cells(cells, excluded=len(combinations) - len(kept), repeated=len(kept) - len(unique))


def _existing(sections: dict) -> set:
    """The settings of EXISTING that are in the sections of a cell, or in all its teachers."""
    names = (name.partition(".") for name in EXISTING)
    found = {f"{section}.{key}" for section, _, key in names if key in sections.get(section, {})}
    several = sections.get(TEACHERS)
    return found | ({"teacher.checkpoint"} if several and all(map(is_checkpoint, several)) else set())


def _effective(spec: Spec, combination: dict) -> dict:
    """The values of a combination that have an effect, in the order of the spec."""
    given = {name: settings_of_value(spec, name, value) for name, value in combination.items()}
    assigned = [pair for name, value in combination.items() for pair in assignments(spec, name, value)]
    values = dict(DEFAULTS) | {setting: value for setting, value in assigned if setting in SETTINGS}
    values["noisy"] = values["noise"] > 0 or any(spec.sections["evaluate"]["noise"])
    values |= _divided(spec, values, dict(assigned))
    found = _existing(spec.sections | {TEACHERS: values[TEACHERS]})
    values["existing"] = found | ({setting for setting, _ in assigned} & EXISTING.keys())
    return {name: combination[name] for name in combination if any(has_effect(s, values) for s in given[name])}


def _divided(spec: Spec, values: dict, assigned: dict) -> dict:
    """The number of parts of a combination, and its teachers with an entry for each part. assigned: its settings."""
    own = {name.partition(".")[2]: value for name, value in assigned.items() if name.startswith("partition.")}
    partition = spec.sections["partition"] | own
    teachers = expanded(spec.path, values[TEACHERS], values[PART], partition, strict=False)
    parts = number_of_parts(spec.path, partition) if partition else 0
    return {TEACHERS: teachers, "parts": parts, "others": has_others(values[TEACHERS])}


def _check_overriding(spec: Spec, values: dict) -> None:
    """Raises KDError when two factors of a cell assign one setting: the cell's name would show the overridden value."""
    setters = {}
    for name, value in values.items():
        for setting in _set_by(spec, name, value):
            if setting in setters:
                both = f"the factors {setters[setting]} and {name} both set" if setters[setting] != name else (
                    f"the value {value} of the factor {name} sets twice"
                )  # fmt: skip
                raise KDError(f"{spec.path}: {both} {setting}, so one would override the other; leave one of them out")
            setters[setting] = name


def _set_by(spec: Spec, name: str, value) -> list[str]:
    """The settings that one value of a factor assigns, and those of the section teacher that its teachers assign."""
    pairs = assignments(spec, name, value)
    return [one for setting, given in pairs for one in (setting, *(assigned_by(given) if setting == TEACHERS else ()))]


def _check_sections(spec: Spec, kept: list) -> None:
    """Raises KDError for a section of the spec that has no effect on any cell, and for options that the cells lack."""
    cells = [_settings(spec, values) for values in kept]
    noisy = any(spec.sections["evaluate"]["noise"])
    values = [
        cell
        | {"noise": cell["noise-level"], "noisy": cell["noise-level"] or noisy, "existing": _existing(cell)}
        | {"parts": cell["partition"].get("parts", 0)}
        for cell in cells
    ]
    _check_options_beside_existing(spec, values)
    for section in ("partition", "teacher", "select", "kd", "cache", "decode", STUDENT_DECODE, "noise", FEDERATED):
        options = (f"{section}.{key}" for key in ("", *spec.sections[section]))
        if section in spec.written and not any(has_effect(name, cell) for name in options for cell in values):
            raise KDError(f"{spec.path}: the section {section} has no effect on any cell; leave it out")
    for key in spec.sections["kd"]:
        if f"kd.{key}" in spec.written and not any(has_effect(f"kd.{key}", cell) for cell in values):
            raise KDError(f"{spec.path}: {key} in kd has no effect on any cell; leave it out")
    for cell in cells:
        check_shares(spec.path, cell["noise"])
        training = cell["common"] | cell["teacher"]
        several = "save-interval-updates" in training and training.get("keep-interval-updates", -1) != 1
        if cell["teacher-choice"] is not None and not several:
            raise KDError(
                f"{spec.path}: teacher-choice needs a teacher with several checkpoints: give save-interval-updates in "
                "the section teacher, and keep-interval-updates above 1 or not at all"
            )
    for who in BUDGETS:
        if (
            "budget" in cells[0]
            and who not in spec.sections["budget"]
            and any(has_effect(f"budget.{who}", cell) for cell in values)
        ):
            raise KDError(f"{spec.path}: budget lacks {who!r}, the number of updates")


def _check_options_beside_existing(spec: Spec, cells: list) -> None:
    """Raises KDError for a written option for making an artefact that exists already in every cell that needs it."""
    for name, without in EXISTING.items():
        section, _, key = name.partition(".")
        users = [cell for cell in cells if has_effect(name, cell)]
        if not users or any(name not in cell["existing"] for cell in users):
            continue
        makes = ("teacher.", "select.", "budget.teacher") if section == "teacher" else (f"{section}.",)
        written = [option for option in spec.written if option.startswith(makes) and option != name]
        if unused := [option for option in written if not any(has_effect(option, cell) for cell in cells)]:
            where, _, option = unused[0].partition(".")
            raise KDError(f"{spec.path}: {option} in {where} has no effect, because {key} in {section} is given: the "
                          f"study {without}; leave it out")  # fmt: skip


def _settings(spec: Spec, values: dict) -> dict:
    settings = dict(DEFAULTS) | {name: dict(options) for name, options in spec.sections.items()}
    noise, all_assigned = 0, set()
    for name, value in values.items():
        for setting, assigned in assignments(spec, name, value):
            all_assigned.add(setting)
            section, _, option = setting.rpartition(".")
            if not section and setting == "noise":
                noise = assigned
            elif section:
                settings[section][option] = assigned
            else:
                settings[setting] = assigned
    settings |= {"noise-level": noise, "assigned": all_assigned}
    settings[TEACHERS] = expanded(spec.path, settings[TEACHERS], settings[PART], settings["partition"])
    if settings[PART] != WHOLE:
        check_exists(spec.path, settings[PART], number_of_parts(spec.path, settings["partition"]))
    return with_transfer(spec.path, settings)


def _names(cells: list[dict]) -> list[str]:
    """The folder of each cell, named by its values.

    A hash of the values is added where the name would be too long, or the same as another cell's.
    """
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

"""Factors by their names: which values they take, and which options these set."""

from fairseq_kd.core.errors import KDError
from fairseq_kd.study.spec import BUDGETS, TRAINED, Spec
from fairseq_kd.study.values import check_mix, check_noise_level, check_route, check_seed, check_updates
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
KD_OPTIONS = ("teacher-temperature", "student-temperature", "teacher-dtype")  # and all of kd-*, see is_kd_option
OPTION_SECTIONS = ("data", *TRAINED, "select", "kd", "cache", "decode", "noise", "evaluate")


def check_factors(spec: Spec) -> dict:
    """Factor -> list of values; labelled values (a mapping) become the list of their labels.

    Raises KDError for names and values that cannot be used.
    """
    check_keys(spec.path, "factors", spec.factors, valid=tuple(spec.factors or ()), required=("method",))
    factors = {}
    for name, values in spec.factors.items():
        values = values if isinstance(values, list | dict) else [values]
        if not values or values == [None]:
            raise KDError(f"{spec.path}: the factor {name} has no values; give a list such as {name}: [1, 2]")
        _check_name(spec, name)
        if isinstance(values, dict):
            _check_labelled(spec, name, values)
        for value in values:
            _check_value(spec, name, value, labelled=isinstance(values, dict))
        if min(len(set(values)), len({str(value) for value in values})) < len(values):
            raise KDError(f"{spec.path}: the factor {name} has a value twice: {', '.join(map(str, values))}")
        factors[name] = list(values)
    return factors


def _check_name(spec: Spec, name) -> None:
    if not isinstance(name, str) or not name:
        raise KDError(f"{spec.path}: the name of a factor must be a word, found {name!r}; YAML reads on, yes and no "
                      "as true and false: put such a name in quotes")  # fmt: skip


def _check_labelled(spec: Spec, name: str, values: dict) -> None:
    if name in SPECIAL or name in ALIASES:
        raise KDError(f"{spec.path}: the factor {name} takes a list of values; labelled values need another name")
    for label, options in values.items():
        check_keys(spec.path, f"the value {label!r} of the factor {name}", options, valid=tuple(options or ()))
        for key, value in options.items():
            _check_name(spec, key)
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
    if name == "mix-gold":
        check_mix(spec.path, value)
    if name in ("seed", "teacher.seed"):
        check_seed(spec.path, f"the factor {name}", value)
    section, dot, option = name.rpartition(".")
    if dot and (section not in (*OPTION_SECTIONS, "budget") or not option):
        raise KDError(f"{where} is of the unknown section {section!r}; the nearest valid one is "
                      f"{nearest(section, OPTION_SECTIONS)!r}")  # fmt: skip
    if section == "budget":
        check_keys(spec.path, "the factor budget", {option: value}, valid=BUDGETS)
        check_updates(spec.path, f"the factor {name}", value)
    for route in routes(name):
        check_route(spec.path, name, *route.rpartition(".")[::2])


def routes(name: str) -> tuple[str, ...]:
    """Where the value of a factor goes: "section.option", or the name of a special factor."""
    if name in SPECIAL or "." in name:
        return (name,)
    if name in ALIASES:
        return ALIASES[name]
    return (f"kd.{name}" if is_kd_option(name) else f"student.{name}",)


def is_kd_option(name: str) -> bool:
    """Whether this is an option of kd_word, without the two dashes, that says how it distils."""
    if name.startswith("kd-") or name in KD_OPTIONS:
        return True
    from fairseq_kd.loss.divergences import PARAMETERS  # and with it torch

    return name in {parameter.option for parameter in PARAMETERS}


def assignments(spec: Spec, name: str, value) -> list[tuple]:
    """[(route, value)] of one factor's value."""
    given = spec.factors[name][value] if isinstance(spec.factors[name], dict) else {name: value}
    return [(route, value) for key, value in given.items() for route in routes(key)]


def routes_of_values(spec: Spec, name: str, value) -> list[str]:
    """What one factor's value is about; a label without options (the default) is about what the others set."""
    found = [route for route, _ in assignments(spec, name, value)]
    if found:
        return found
    return [route for other in spec.factors[name] for route, _ in assignments(spec, name, other)]

"""Factors: what a study varies. The values of each factor, and the settings that they assign.

A setting is either a setting of the study itself (SETTINGS, such as `method`) or one option, as SECTION.OPTION. The
name of a factor says which settings its values assign:

    name of the factor                               setting
    one of SETTINGS                                  the same name
    one of ALIASES, such as `alpha`                  the options given there
    SECTION.OPTION, such as `decode.beam`            that option
    an option of the criterion, see is_kd_option     kd.NAME
    any other name, such as `dropout`                student.NAME
"""

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.yaml_file import check_keys, check_text, nearest
from fairseq_kd.quickstart.recipe import TRAINED
from fairseq_kd.study.methods import INITIALISATIONS, NAMES, OF_SEVERAL_TEACHERS, RANDOM, REFRESH, STUDENT_DECODE
from fairseq_kd.study.parts import PART, WHOLE, check_part
from fairseq_kd.study.peers import check_peers
from fairseq_kd.study.sections import (
    BUDGETS,
    EXISTING,
    MAPPINGS,
    SOURCE_TEXT,
    check_factor_option,
    check_files,
    check_mix,
    check_noise_level,
    check_seed,
    check_updates,
)
from fairseq_kd.study.spec import Spec
from fairseq_kd.study.teachers import TEACHERS
from fairseq_kd.study.transfer import CHOICES as TRANSFERS
from fairseq_kd.study.transfer import TRANSFER
from fairseq_kd.training.arguments import PRECISION, check_precision

METHODS = NAMES
CHOICES = {
    "method": METHODS,
    "teacher-choice": ("low-loss", "high-score"),
    "teacher-noise": ("same", "clean"),
    "signal": ("cache", "online"),
    "compact": (True, False),
    "init": INITIALISATIONS,
    TRANSFER: TRANSFERS,
}
DEFAULTS = {"teacher-choice": None, "teacher-noise": "same", "signal": "cache", "compact": False}
DEFAULTS |= {"noise": 0, "seed": 1, "mix-gold": 0, "init": RANDOM, "peers": 2, TEACHERS: None, REFRESH: None}
DEFAULTS |= {PART: WHOLE, TRANSFER: None}
SETTINGS = ("method", *DEFAULTS)
ALIASES = {
    "strategy": ("decode.strategy",),
    "divergence": ("kd.kd-divergence",),
    "alpha": ("kd.kd-weight",),
    "temperature": ("kd.teacher-temperature", "kd.student-temperature"),
    PRECISION: (f"teacher.{PRECISION}", f"student.{PRECISION}"),
}
# see is_kd_option
KD_OPTIONS = ("teacher-temperature", "student-temperature", "teacher-dtype", "teacher-schedule", *OF_SEVERAL_TEACHERS)
KD_BEGINNINGS = ("kd-", "on-policy-", "hybrid-")
OPTION_SECTIONS = (
    "data",
    "partition",
    *TRAINED,
    "select",
    "kd",
    "cache",
    "decode",
    STUDENT_DECODE,
    "noise",
    "federated",
    "evaluate",
)


def check_factors(spec: Spec) -> dict:
    """Factor -> list of values. Labelled values (a mapping) become the list of their labels.

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
    if name == TEACHERS:  # `read_teachers` has checked it
        return
    if (name in SETTINGS and name != TRANSFER) or name in ALIASES:
        raise KDError(f"{spec.path}: the factor {name} takes a list of values; labelled values need another name")
    for label, options in values.items():
        check_keys(spec.path, f"the value {label!r} of the factor {name}", options, valid=tuple(options or ()))
        for key, value in options.items():
            _check_name(spec, key)
            _check_value(spec, key, value, labelled=False, in_label=True)


def _check_value(spec: Spec, name: str, value, labelled: bool, in_label: bool = False) -> None:
    """in_label: whether the value stands behind a label; lists and mappings can stand there alone."""
    where = f"{spec.path}: the factor {name}"
    kinds = {list: (SOURCE_TEXT,), dict: MAPPINGS}.get(type(value))
    if value is None or (kinds is not None and not (in_label and name in kinds)):
        label = f", or a label such as {name}: {{more: [FILE, FILE]}}" if name == SOURCE_TEXT else ""
        raise KDError(f"{where} has the value {value!r}; a value must be a word, a number, true or false{label}")
    if labelled:
        return
    if name in CHOICES and value not in CHOICES[name]:
        raise KDError(f"{where} has the value {value!r}; the nearest valid one is {nearest(value, CHOICES[name])!r}")
    if name == "noise":
        check_noise_level(spec.path, "factors", value)
    if name == "mix-gold":
        check_mix(spec.path, value)
    if name == PART:
        check_part(spec.path, value)
    if name == "peers":
        check_peers(spec.path, value)
    if name == REFRESH:
        check_updates(spec.path, f"the factor {name}", value)
    if name in ("seed", "teacher.seed"):
        check_seed(spec.path, f"the factor {name}", value)
    if name in EXISTING:
        check_text(spec.path, f"the path in the factor {name}", value)
    if name == SOURCE_TEXT:
        check_files(spec.path, f"the text in the factor {name}", value)
    section, dot, option = name.rpartition(".")
    if option == PRECISION and section in ("", *TRAINED):
        check_precision(where, value)
    if dot and (section not in (*OPTION_SECTIONS, "budget") or not option):
        raise KDError(f"{where} names the unknown section {section!r}; the nearest valid one is "
                      f"{nearest(section, OPTION_SECTIONS)!r}")  # fmt: skip
    if section == "budget":
        check_keys(spec.path, "the factor budget", {option: value}, valid=BUDGETS)
        check_updates(spec.path, f"the factor {name}", value)
    for setting in settings_of(name):
        check_factor_option(spec.path, name, *setting.rpartition(".")[::2])


def settings_of(name: str) -> tuple[str, ...]:
    """The settings that the values of a factor assign: SECTION.OPTION, or one of SETTINGS. See the module."""
    if name in SETTINGS or "." in name:
        return (name,)
    if name in ALIASES:
        return ALIASES[name]
    return (f"kd.{name}" if is_kd_option(name) else f"student.{name}",)


def is_kd_option(name: str) -> bool:
    """Whether `name`, without the two dashes, is an option of kd_word or kd_hybrid that says how it distils."""
    if name.startswith(KD_BEGINNINGS) or name in KD_OPTIONS:
        return True
    from fairseq_kd.loss.divergences import PARAMETERS  # and with it torch

    return name in {parameter.option for parameter in PARAMETERS}


def assignments(spec: Spec, name: str, value) -> list[tuple]:
    """[(setting, value)] for one value of a factor. For a labelled value: the pairs of all options behind its label."""
    given = spec.factors[name][value] if isinstance(spec.factors[name], dict) else {name: value}
    return [(setting, value) for key, value in given.items() for setting in settings_of(key)]


def settings_of_value(spec: Spec, name: str, value) -> list[str]:
    """The settings that one value of a factor is about.

    A label without options (`default: {}`) assigns nothing. It means the default of the settings that the other
    labels of its factor assign, so it is about those.
    """
    found = [setting for setting, _ in assignments(spec, name, value)]
    if found:
        return found
    return [setting for other in spec.factors[name] for setting, _ in assignments(spec, name, other)]

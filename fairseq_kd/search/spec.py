"""Specs of searches: YAML files such as configs/searches/*.yaml, read and checked before anything runs.

A spec has those sections of a study that describe a training, and the section `search` in place of factors.
"""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

from fairseq_kd.core.errors import KDError, prefixed_errors
from fairseq_kd.core.paths import config_folder
from fairseq_kd.core.yaml_file import check_keys, nearest, read_yaml
from fairseq_kd.search.space import (
    CHOICE,
    SEARCHED,
    SIGNAL,
    Range,
    check_space,
    check_value,
    option_defaults,
    option_names,
    read_configuration,
    read_parameters,
    simplest,
)
from fairseq_kd.search.strategies import check_parameters, resolve_kd_word
from fairseq_kd.study.cells import make_cells
from fairseq_kd.study.check import check_commands
from fairseq_kd.study.factors import CHOICES
from fairseq_kd.study.methods import METHODS
from fairseq_kd.study.parts import has_local
from fairseq_kd.study.plan import Plan
from fairseq_kd.study.sections import SEEDS
from fairseq_kd.study.spec import Spec, read_sections
from fairseq_kd.study.state import OlderStages
from fairseq_kd.study.teachers import TEACHERS, read_teachers
from fairseq_kd.training.arguments import PRECISION, PRECISIONS

SECTIONS = ("recipe", "data", "common", "teacher", "student", "budget", "select", "cache", "decode", "evaluate")
SECTIONS += ("search",)
ALGORITHMS = ("greedy", "grid", "optuna")
OPTUNA_KEYS = {"trials": None, "batch": 1, "sampler-seed": 1}  # key -> default; None: it must be given
KEYS = ("algorithm", "method", SIGNAL, TEACHERS, "parameters", "start", "seeds", "teacher-checkpoints", *OPTUNA_KEYS)
CHECKPOINTS = ("save-interval-updates", "keep-interval-updates")
VALIDATION, TEST = "valid", "test"
SIGNALS = CHOICES[SIGNAL]  # the first is the default


@dataclass(frozen=True)
class SearchSpec:
    """A checked spec.

    trained: the spec of the studies that train the configurations, without factors.
    parameters: [(option, values or Range)]. start, robust: option -> value, see `read_configuration`.
    seeds: seeds of the students, the same for each configuration. numbers: trials, batch and sampler-seed, for Optuna.
    older: the stages of other versions in WORK. method: one of SEARCHED. teachers: of several teachers the variations
    of the section teacher, see `study.teachers`; None: one teacher. signal: one of SIGNALS.
    """

    trained: Spec
    algorithm: str
    parameters: list
    start: dict
    robust: dict
    seeds: list
    numbers: dict
    older: OlderStages | None = None
    method: str = SEARCHED[0]
    teachers: list | None = None
    signal: str = SIGNALS[0]

    @property
    def defaults(self) -> dict:
        """The options of the criterion -> their defaults."""
        return option_defaults(self.method, len(self.teachers or ()) > 1, self.signal)

    @property
    def name(self) -> str:
        """The name of the search: the name of the file without .yaml."""
        return self.trained.name

    def label(self, options: dict) -> str:
        """The parameters of a configuration as text: "kd-divergence=kl,kd-weight=0.5"."""
        return ",".join(f"{name}={options[name]}" for name, _ in self.parameters if name in options)

    def plan(self, labelled: dict, subsets: list) -> Plan:
        """The study that trains configurations (label -> options) with every seed and evaluates them on `subsets`.

        Raises KDError when a program refuses one of its commands.
        """
        sections = self.trained.sections | {"evaluate": self.trained.sections["evaluate"] | {"subsets": subsets}}
        trained = {label: self._as_trained(options) for label, options in labelled.items()}
        factors = {"method": [self.method], "configuration": trained, "seed": self.seeds}
        if self.signal != SIGNALS[0]:
            factors[SIGNAL] = [self.signal]
        if self.teachers is not None:
            factors[TEACHERS] = {"all": {TEACHERS: self.teachers}}
        spec = replace(self.trained, sections=sections, factors=factors)
        plan = Plan(spec, make_cells(spec), self.older)
        check_commands(plan)
        return plan

    def _as_trained(self, options: dict) -> dict:
        """The options in one order and without defaults, except for the weight.

        The keys of stages depend on the words of the commands, so the same experiment must always have the same words.
        """
        defaults = self.defaults
        kept = {name: options[name] for name in options if name not in defaults or options[name] != defaults[name]}
        return dict(sorted(({"kd-weight": defaults["kd-weight"]} | kept).items()))


def load_search(path, recipe=None, raw=None) -> SearchSpec:
    """Read and check a spec. recipe and raw: see `study.spec.load_spec`.

    Raises KDError that names the key at fault and the nearest valid one.
    """
    path = Path(path)
    content = read_yaml(path, "spec")
    if isinstance(content, dict) and "kd" in content:
        raise KDError(f"{path}: a search has no section kd; give its options in start, in the section search")
    check_keys(path, "the spec", content, SECTIONS, required=("search",))
    given = content["search"]
    check_keys(path, "search", given, KEYS, required=("algorithm", "parameters"))
    algorithm = given["algorithm"]
    if algorithm not in ALGORITHMS:
        raise KDError(f"{path}: unknown algorithm {algorithm!r}; the nearest valid one is "
                      f"{nearest(algorithm, ALGORITHMS)!r}")  # fmt: skip
    method, teachers = _method(path, given), _teachers(path, given)
    signal = _signal(path, given, method)
    known = option_defaults(method, len(teachers or ()) > 1, signal)
    names = option_names(method, len(teachers or ()) > 1, signal)
    parameters = read_parameters(path, given["parameters"], algorithm, names)
    defaults = known | {PRECISION: PRECISIONS[0]}
    defaults = {name: value for name, value in defaults.items() if name in dict(parameters)}
    robust = defaults | read_configuration(config_folder() / "kd" / "robust.yaml", known)
    search = SearchSpec(
        trained=Spec(path, _sections(path, content, recipe, raw), {}, [], [], tuple(content)),
        algorithm=algorithm,
        parameters=parameters,
        start=defaults | _start(path, given.get("start", {}), robust, known),
        robust=robust,
        seeds=_seeds(path, given.get("seeds", [1])),
        numbers=_numbers(path, given, algorithm),
        method=method,
        teachers=teachers,
        signal=signal,
    )
    _choose_among_checkpoints(path, content, search)
    _check(search)
    return search


def _method(path: Path, given: dict) -> str:
    method = given.get("method", SEARCHED[0])
    if method not in SEARCHED:
        raise KDError(f"{path}: method in search has the value {method!r}; the nearest valid one is "
                      f"{nearest(method, SEARCHED)!r}")  # fmt: skip
    return method


def _signal(path: Path, given: dict, method: str) -> str:
    signal = given.get(SIGNAL, SIGNALS[0])
    if signal not in SIGNALS:
        raise KDError(f"{path}: {SIGNAL} in search has the value {signal!r}; it must be {' or '.join(SIGNALS)}")
    if SIGNAL in given and not METHODS[method].cached:
        raise KDError(f"{path}: {SIGNAL} in search has no effect on the method {method}; leave it out")
    return signal


def _teachers(path: Path, given: dict) -> list | None:
    if TEACHERS not in given:
        return None
    found = read_teachers(path, {"all": given[TEACHERS]})["all"][TEACHERS]
    if has_local(found):
        raise KDError(f"{path}: {TEACHERS} in search has a part, and a search has no partition: give checkpoints of "
                      "local models, and the data-bin of a part in data")  # fmt: skip
    return found


def _sections(path: Path, content: dict, recipe, raw) -> dict:
    for section, keys in (("evaluate", ("subsets", "noise")), ("teacher", (*CHECKPOINTS, "checkpoint"))):
        for key in keys:
            if key in (content.get(section) or {}):
                remedy = "give teacher-checkpoints in search" if key in CHECKPOINTS else "leave it out"
                raise KDError(f"{path}: {key} in {section} is set by the search; {remedy}")
    return read_sections(path, content, recipe, raw) | {"kd": {}}


def _start(path: Path, given, robust: dict, known: dict) -> dict:
    if isinstance(given, str):
        return read_configuration(path.parent / given, known)
    check_keys(path, "start", given, (CHOICE, PRECISION, *known))
    for name, value in given.items():
        check_value(f"{path}: {name} in start", name, value)
    return robust | {name: simplest(value) for name, value in given.items()}


def _seeds(path: Path, seeds) -> list:
    whole = isinstance(seeds, list) and all(type(seed) is int and 0 <= seed < SEEDS for seed in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise KDError(f"{path}: seeds must be a list of whole numbers from 0, each once, below 2^31, found {seeds!r}")
    return seeds


def _numbers(path: Path, given: dict, algorithm: str) -> dict:
    found = {name: given[name] for name in OPTUNA_KEYS if name in given}
    if algorithm != "optuna":
        for name in found:
            raise KDError(f"{path}: {name} has no effect with the algorithm {algorithm}, only with optuna")
        return {}
    check_keys(path, "search", found, tuple(OPTUNA_KEYS), required=("trials",))
    for name, value in found.items():
        if type(value) is not int or value < 0:
            raise KDError(f"{path}: {name} must be a whole number, found {value!r}")
    return OPTUNA_KEYS | found


def _choose_among_checkpoints(path: Path, content: dict, search: SearchSpec) -> None:
    """Let the teacher's training keep `teacher-checkpoints` checkpoints at equal distances, to choose the teacher from.

    Every search needs them, because configs/kd/robust.yaml, to which the choice is compared, chooses among them.
    """
    sections, number = search.trained.sections, content["search"].get("teacher-checkpoints", 6)
    if type(number) is not int or number < 2:
        raise KDError(f"{path}: teacher-checkpoints must be a whole number from 2, found {number!r}")
    updates = sections["budget"].get("teacher")
    if type(updates) is not int or updates < number:
        raise KDError(f"{path}: the teacher's budget must be at least {number} updates, one for each of the "
                      f"{number} checkpoints, found {updates!r}")  # fmt: skip
    sections["teacher"] |= dict(zip(CHECKPOINTS, (updates // number, -1), strict=True))


def _check(search: SearchSpec) -> None:
    """Check the needs of the algorithm, and every command of the start and of all pairs of values."""
    with prefixed_errors(search.trained.path):
        if search.algorithm == "optuna":
            check_space(search.parameters, search.start, search.numbers["trials"], search.numbers["batch"])
        else:
            check_parameters(search.parameters, search.start)
    choices = [[{name: value} for value in _ends(values)] for name, values in search.parameters]
    pairs = itertools.chain.from_iterable(itertools.product(*two) for two in itertools.combinations(choices, 2))
    changes = [{}, *itertools.chain.from_iterable(choices), *(one | other for one, other in pairs)]
    options = [resolve_kd_word(search.start | change) for change in changes] + [resolve_kd_word(search.robust)]
    search.plan({str(number): one for number, one in enumerate(options)}, [VALIDATION, TEST])


def _ends(values):
    return (values.low, values.high) if isinstance(values, Range) else values

"""The space of a search: its parameters, each with a list of values or a range; and Optuna's sampler.

Optuna serves spaces that are too wide for a grid. Its proposals and their scores are kept in an SQLite file, so the
same command continues a killed search. The sampler gets a new seed for each trial, so a continued search proposes the
same configurations as an uninterrupted one.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from fairseq_kd.artifacts.locks import exclusive
from fairseq_kd.artifacts.writing import ensure_writable_folder
from fairseq_kd.core.errors import KDError, prefixed_errors
from fairseq_kd.core.yaml_file import check_keys, is_number, nearest, read_yaml
from fairseq_kd.search.strategies import SAME, Runs, Search, check_parameters
from fairseq_kd.study.factors import CHOICES, settings_of
from fairseq_kd.study.methods import METHODS, takes_option
from fairseq_kd.training.arguments import PRECISION, check_precision

CHOICE, SIGNAL = "teacher-choice", "signal"  # settings of a study


@dataclass(frozen=True)
class Range:
    """The values of a parameter as an interval: all numbers from low to high.

    log: sampled uniformly in the logarithm.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self):
        if not self.low < self.high or (self.log and self.low <= 0):
            raise KDError(f"{self}: low must be below high, and above 0 for log")

    def __contains__(self, value) -> bool:
        return is_number(value) and self.low <= value <= self.high


# the methods that a search can have: a student learns from distributions of a teacher
SEARCHED = tuple(name for name, method in METHODS.items() if method.taught and method.criterion and not method.rounds)


def option_names(method: str = SEARCHED[0], several: bool = False, signal: str = CHOICES[SIGNAL][0]) -> tuple[str, ...]:
    """The parameters that a search can have: the choice of the teacher, the precision, and options of the criterion.

    For the arguments see `option_defaults`.
    """
    return (CHOICE, PRECISION, *option_defaults(method, several, signal))


def option_defaults(method: str = SEARCHED[0], several: bool = False, signal: str = CHOICES[SIGNAL][0]) -> dict:
    """The options that say how a method distils -> their defaults.

    several: whether it has several teachers. signal: `online` if they run during the training, else `cache`.
    """
    from fairseq_kd.criterions.hybrid_config import KDHybridConfig  # imports fairseq
    from fairseq_kd.criterions.on_policy_config import OnPolicyConfig

    config = KDHybridConfig if METHODS[method].criterion == "kd_hybrid" else OnPolicyConfig
    found = {field.name.replace("_", "-"): simplest(field.default) for field in fields(config)}
    how = {"several": several, "online": METHODS[method].is_online(signal)}
    taken = [name for name in found if settings_of(name)[0] == f"kd.{name}" and takes_option(method, name, **how)]
    return {name: found[name] for name in taken} | METHODS[method].defaults


def simplest(value):
    """1.0 -> 1, so that 1 and 1.0 are one experiment: the key of a stage depends on the words of its command."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def read_parameters(path: Path, given, algorithm: str, names) -> list:
    """[(option, values or Range)] of the section `parameters`. names: see `option_names`.

    Raises KDError that names the key or value at fault and the nearest valid one.
    """
    check_keys(path, "parameters", given, names)
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
    """Raises KDError for a value that no option of the search can have; the programs check the rest."""
    if isinstance(value, list | dict) or value is None:
        raise KDError(f"{where} has the value {value!r}; a value must be a word, a number, true or false")
    if name == CHOICE and value not in CHOICES[CHOICE]:
        closest = nearest(value, CHOICES[CHOICE])
        raise KDError(f"{where} has the value {value!r}; the nearest valid one is {closest!r}")
    if name == PRECISION:
        check_precision(where, value)
    if value == SAME and name != "student-temperature":
        raise KDError(f"{where} has the value {SAME!r}, which only student-temperature can have")


def _range(where: str, given: dict, algorithm: str) -> Range:
    if algorithm != "optuna":
        raise KDError(f"{where}: {algorithm} needs a list of values; only optuna takes a range")
    check_keys(where, "the range", given, ("low", "high", "log"), required=("low", "high"))
    for end in ("low", "high"):
        if not is_number(given[end]):
            raise KDError(f"{where}: {end} must be a number, found {given[end]!r}")
    if not isinstance(given.get("log", False), bool):
        raise KDError(f"{where}: log must be true or false, found {given['log']!r}")
    with prefixed_errors(where):
        return Range(given["low"], given["high"], given.get("log", False))


def optuna_search(
    parameters, start: dict, trials: int, storage, *, batch: int = 1, seed: int = 1, resolve: Callable = dict
) -> Search:
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011).

    parameters, start, resolve: see `strategies.greedy`; a parameter may have a `Range` in place of values.
    trials: the total number, which includes `start` as the first one, and repetitions; a later call may give more.
    batch: number of configurations per batch. storage: the SQLite file. A continued search first asks again for the
    configurations whose scores it does not have.
    Raises KDError when Optuna is missing, and when `storage` was made with other arguments or is in use.
    """
    optuna = _import_optuna()
    check_space(parameters, start, trials, batch)
    storage = Path(storage).absolute()
    ensure_writable_folder(storage.parent)
    runs = Runs(resolve)
    with exclusive(storage):
        begun_from = {"parameters": [[name, str(values)] for name, values in parameters]}
        begun_from |= {"start": start, "seed": seed, "batch": batch}
        study = _open(optuna, storage, begun_from, {name: start[name] for name, _ in parameters})
        for first in range(0, trials, batch):
            waiting = []  # (trial, configuration) without a score
            for number in range(first, min(first + batch, trials)):
                study.sampler = optuna.samplers.TPESampler(seed=seed + number, constant_liar=True)
                if (trial := _unfinished(optuna, study, number)) is not None:
                    proposed = {name: _suggest(trial, name, values) for name, values in parameters}
                    waiting.append((trial, start | proposed))
                else:
                    finished = study.trials[number]
                    runs.learn(start | finished.params, finished.value)
            yield from runs.ask([configuration for _, configuration in waiting])
            for trial, configuration in waiting:
                score = runs.run(configuration).score
                study.tell(trial, score, state=optuna.trial.TrialState.FAIL if score is None else None)
    names, tried = tuple(name for name, _ in parameters), [run.configuration for run in runs.trace()]
    return runs.outcome(start, parameters, [runs.step(names, tried, "all trials")])


def _import_optuna():
    try:
        import optuna
    except ImportError as error:
        raise KDError("this search needs Optuna: pip install 'fairseq_kd[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def check_space(parameters, start: dict, trials: int, batch: int) -> None:
    """Raises KDError for parameters, a start or numbers that `optuna_search` cannot use."""
    listed = [(name, values) for name, values in parameters if not isinstance(values, Range)]
    check_parameters(
        [(name, [start.get(name)]) if isinstance(v, Range) else (name, v) for name, v in parameters], start
    )
    for name, values in parameters:
        if isinstance(values, Range) and start[name] not in values:
            raise KDError(f"the start has {name} = {start[name]}, which is not within {values}")
    for name, values in listed:
        if not all(value is None or isinstance(value, bool | int | float | str) for value in values):
            raise KDError(
                f"parameter {name}: Optuna chooses among numbers, words, true and false; found {list(values)}"
            )
    if trials < 1 or batch < 1:
        raise KDError(f"{trials} trials in batches of {batch}: both must be at least 1")


def _open(optuna, storage: Path, begun_from: dict, first: dict):
    """Optuna's study in `storage`, with `first` as its first trial.

    Raises KDError when the file holds another search, or cannot be read.
    """
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{storage}", study_name="search", direction="maximize", load_if_exists=True
        )
    except Exception as error:  # SQLAlchemy, alembic and sqlite3 raise many types for a file that is not a storage
        reason = " ".join(str(error).split())[:200]
        raise KDError(
            f"{storage} cannot be read as the storage of a search ({reason}): remove it, or choose another --out"
        ) from error
    if (found := study.user_attrs.get("begun_from")) not in (None, begun_from):
        name = next(name for name in begun_from if found.get(name) != begun_from[name])
        raise KDError(
            f"{storage} was made with {name} = {found.get(name)}, now it is {begun_from[name]}: give the former value, "
            f"remove {storage} (the search then proposes its trials again), or choose another --out"
        )
    study.set_user_attr("begun_from", begun_from)
    if not study.trials:
        study.enqueue_trial(first)
    return study


def _unfinished(optuna, study, number: int):
    """Trial `number`: a new one, or one that a killed process has proposed; None when it is finished."""
    trials = study.trials
    if number < len(trials) and trials[number].state.is_finished():
        return None
    if number < len(trials) and trials[number].state == optuna.trial.TrialState.RUNNING:
        return optuna.trial.Trial(study, trials[number]._trial_id)  # with the values that it has proposed
    trial = study.ask()
    assert trial.number == number, f"trial {trial.number} instead of {number}"
    return trial


def _suggest(trial, name: str, values):
    if isinstance(values, Range):
        return trial.suggest_float(name, values.low, values.high, log=values.log)
    return trial.suggest_categorical(name, list(values))


def read_configuration(path, known=None) -> dict:
    """A file like configs/kd/robust.yaml as option -> value; `by` in select-teacher becomes teacher-choice.

    known: the options that its section kd may have; None: those of the method word. The file may also have the
    precision, as `common: {precision: VALUE}`.
    """
    path = Path(path)
    content = read_yaml(path, "spec")
    check_keys(path, "the configuration", content, ("select-teacher", "common", "kd"), required=("kd",))
    check_keys(path, "select-teacher", content.get("select-teacher", {}), ("by",))
    check_keys(path, "common", content.get("common", {}), (PRECISION,))
    check_keys(path, "kd", content["kd"], option_defaults() if known is None else known)
    chosen = {CHOICE: content["select-teacher"]["by"]} if content.get("select-teacher") else {}
    chosen |= content.get("common", {})
    for name, value in (chosen | content["kd"]).items():
        check_value(f"{path}: {name}", name, value)
    return {name: simplest(value) for name, value in (chosen | content["kd"]).items()}

"""Optuna's sampler behind the interface of `search`, for spaces that are too wide for a grid.

What Optuna has proposed and been told stands in an SQLite file, so a search whose process was killed goes on. The
sampler is seeded for each trial, so it goes on as it would have.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fairseq_kd.artifacts.locks import exclusive
from fairseq_kd.artifacts.writing import ensure_writable_folder
from fairseq_kd.core.errors import KDError
from fairseq_kd.search.strategies import Runs, Search, check_parameters
from fairseq_kd.study.values import is_number


@dataclass(frozen=True)
class Range:
    """In the place of a parameter's values: the numbers from low to high. log: drawn evenly in their logarithm."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self):
        if not self.low < self.high or (self.log and self.low <= 0):
            raise KDError(f"{self}: low must be below high, and above 0 for log")

    def __contains__(self, value) -> bool:
        return is_number(value) and self.low <= value <= self.high


def optuna_search(
    parameters, start: dict, trials: int, storage, *, batch: int = 1, seed: int = 1, resolve: Callable = dict
) -> Search:
    """The tree-structured Parzen estimator of Optuna; parameters, start, resolve: see `search.greedy`, and `Range`.

    trials: how many in all, `start` the first and repetitions counted; more can be given later. batch: so many at once.
    storage: the SQLite file. Continued, it asks first for what it was waiting for.
    Raises KDError when Optuna is missing, and when `storage` was begun with other arguments or is in use.
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
            waiting = []  # proposed, and not told yet
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
    """Raises KDError for parameters, a start or numbers that `optuna_search` cannot take."""
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
                f"parameter {name}: Optuna chooses among numbers, words, true and false; given: {list(values)}"
            )
    if trials < 1 or batch < 1:
        raise KDError(f"{trials} trials in batches of {batch}: both must be at least 1")


def _open(optuna, storage: Path, begun_from: dict, first: dict):
    """The study in `storage`, with `first` as its first trial. Raises KDError when it is another or cannot be read."""
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{storage}", study_name="search", direction="maximize", load_if_exists=True
        )
    except Exception as error:  # whatever SQLAlchemy, alembic or sqlite3 raise for a file that is none of theirs
        reason = " ".join(str(error).split())[:200]
        raise KDError(
            f"{storage} is not the storage of a search ({reason}): remove it, or choose another --out"
        ) from error
    if (found := study.user_attrs.get("begun_from")) not in (None, begun_from):
        name = next(name for name in begun_from if found.get(name) != begun_from[name])
        raise KDError(
            f"{storage} was begun with {name} = {found.get(name)}, now it is {begun_from[name]}: give what was given "
            f"before, remove {storage} (its trials are then proposed anew), or choose another --out"
        )
    study.set_user_attr("begun_from", begun_from)
    if not study.trials:
        study.enqueue_trial(first)
    return study


def _unfinished(optuna, study, number: int):
    """Trial `number`, new or begun by a process that was killed; None when it is finished."""
    trials = study.trials
    if number < len(trials) and trials[number].state.is_finished():
        return None
    if number < len(trials) and trials[number].state == optuna.trial.TrialState.RUNNING:
        return optuna.trial.Trial(study, trials[number]._trial_id)  # it keeps what it has proposed
    trial = study.ask()
    assert trial.number == number, f"trial {trial.number} instead of {number}"
    return trial


def _suggest(trial, name: str, values):
    if isinstance(values, Range):
        return trial.suggest_float(name, values.low, values.high, log=values.log)
    return trial.suggest_categorical(name, list(values))

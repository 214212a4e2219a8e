"""Searches for the best configuration. They say what has to be trained next, and train nothing.

A search is a generator: it yields a batch of configurations that can be trained at once, is sent their scores in the
same order (None for one that failed), and returns an `Outcome`. What is the same experiment is asked for once.

    greedy, grid, or optuna_search.optuna_search -> drive(search, validate)    chosen by scores on validation data

A configuration is a dict, option -> value. `resolve` turns one into what is trained: two configurations that it turns
into the same are one experiment (`resolve_kd_word`).
"""

import itertools
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from fairseq_kd.core.errors import KDError

SAME = "same"  # student-temperature: that of the teacher


@dataclass(frozen=True)
class Run:
    """A configuration, what it resolves to, and its score on validation data (None: it failed)."""

    configuration: dict
    options: dict
    score: float | None


@dataclass(frozen=True)
class Cost:
    """What a wrong value of a parameter costs at most: the best against the worst of runs that differ in nothing else.

    groups: of so many groups of such runs this is the one with the largest difference.
    """

    best_value: object
    best_score: float
    worst_value: object
    worst_score: float
    groups: int

    @property
    def difference(self) -> float:
        """In units of the score, 0 or more."""
        return self.best_score - self.worst_score


@dataclass(frozen=True)
class Step:
    """One choice: the parameters that were varied, the runs it was made among, and the best of them."""

    names: tuple[str, ...]
    runs: list[Run]
    chosen: Run


@dataclass(frozen=True)
class Outcome:
    """best: the choice. start: where the search began. runs: all, in the order in which they were looked at.

    steps: how the choice was made. costs: of each parameter the largest, None where no two runs differ in it alone.
    """

    best: Run
    start: Run
    runs: list[Run]
    costs: dict[str, Cost | None]
    steps: list[Step]


Search = Generator[list[dict], Sequence[float | None], Outcome]


def resolve_kd_word(configuration: dict) -> dict:
    """The options of kd_word: the student's temperature as a number, and without options that have no effect."""
    from fairseq_kd.loss.divergences import DIVERGENCES, PARAMETERS  # and with it torch

    options = dict(configuration)
    if options.get("student-temperature") == SAME:
        options["student-temperature"] = options.get("teacher-temperature", 1.0)
    idle = set()
    divergence = DIVERGENCES.get(options.get("kd-divergence", "kl"))
    if divergence is not None:  # kd_word refuses an unknown name, and names the nearest
        idle |= {parameter.option for parameter in PARAMETERS if parameter not in divergence.parameters}
        idle |= set() if divergence.takes_temperatures else {"teacher-temperature", "student-temperature"}
    if options.get("kd-select", "all") == "all":
        idle |= {"kd-select-rate", "kd-queue-size"}
    elif options["kd-select"] == "batch":
        idle.add("kd-queue-size")
    return {name: value for name, value in options.items() if name not in idle}


def greedy(parameters, start: dict, resolve: Callable = dict) -> Search:
    """One parameter after the other, with those before it at their best. Source: arXiv 2401.06356.

    parameters: [(option, values)] in order. start: one of the values of each, and other options, which stay. A batch is
    all values of one parameter. Of equal scores the value that is named first is chosen.
    Raises KDError for parameters that cannot be searched, and when all values of one failed.
    """
    check_parameters(parameters, start)
    runs, steps, current = Runs(resolve), [], dict(start)
    for name, values in parameters:
        candidates = [current | {name: value} for value in values]
        yield from runs.ask(candidates)
        steps.append(runs.step((name,), candidates, f"all values of {name}"))
        current = steps[-1].chosen.configuration
    return runs.outcome(start, parameters, steps)


def grid(parameters, start: dict, resolve: Callable = dict) -> Search:
    """All combinations in one batch: of temperature and weight, "tuned KD" of arXiv 2402.14922. See `greedy`."""
    check_parameters(parameters, start)
    runs, names = Runs(resolve), [name for name, _ in parameters]
    combinations = itertools.product(*(values for _, values in parameters))
    candidates = [start | dict(zip(names, values, strict=True)) for values in combinations]
    yield from runs.ask(candidates)
    return runs.outcome(start, parameters, [runs.step(tuple(names), candidates, "all combinations")])


def drive(search: Search, validate: Callable) -> Outcome:
    """Run a search to its end. validate(configurations) -> their scores; it may train them all at once."""
    try:
        batch = next(search)
        while True:
            batch = search.send(validate(batch))
    except StopIteration as stop:
        return stop.value


def check_parameters(parameters, start: dict) -> None:
    """Raises KDError when a parameter is named twice or has no values, or `start` has none of its values."""
    names = [name for name, _ in parameters]
    if not names or len(set(names)) < len(names):
        raise KDError(f"a search needs parameters, each once; given: {', '.join(names) or 'none'}")
    for name, values in parameters:
        if not values or len({_key({name: value}) for value in values}) < len(values):
            raise KDError(f"parameter {name} needs values, each once; given: {list(values)}")
        if name not in start or start[name] not in values:
            raise KDError(f"the start has {name} = {start.get(name)!r}, which is not among its values {list(values)}")


class Runs:
    """The scores that are known, and the order in which configurations were looked at."""

    def __init__(self, resolve: Callable):
        self._resolve = resolve
        self._scores: dict[tuple, float | None] = {}
        self._looked_at: dict[tuple, dict] = {}

    def ask(self, configurations: list[dict]) -> Generator[list[dict], Sequence[float | None], None]:
        """Yield what has no score yet, each experiment once, and take the scores that are sent."""
        options = {_key(one): one for one in map(self._resolve, configurations)}
        missing = {key: one for key, one in options.items() if key not in self._scores}
        if missing:
            scores = yield list(missing.values())
            self._scores.update(zip(missing, map(_checked, scores), strict=True))
        self._looked_at |= {_key(one): one for one in configurations if _key(one) not in self._looked_at}

    def learn(self, configuration: dict, score: float | None) -> None:
        """Take over what an earlier process was sent."""
        self._scores[_key(self._resolve(configuration))] = score
        self._looked_at.setdefault(_key(configuration), configuration)

    def run(self, configuration: dict) -> Run:
        """What is known about a configuration that was asked for."""
        options = self._resolve(configuration)
        return Run(configuration, options, self._scores[_key(options)])

    def trace(self) -> list[Run]:
        """All runs."""
        return [self.run(configuration) for configuration in self._looked_at.values()]

    def step(self, names: tuple, configurations: list[dict], what: str) -> Step:
        """The highest score is chosen, of equals the first. Raises KDError, naming `what`, when all failed."""
        runs = [self.run(configuration) for configuration in configurations]
        succeeded = [run for run in runs if run.score is not None]
        if not succeeded:
            raise KDError(f"{what} failed, so none can be chosen: see the logs of the trainings")
        return Step(names, runs, max(succeeded, key=lambda run: run.score))

    def outcome(self, start: dict, parameters, steps: list[Step]) -> Outcome:
        """What the search returns; the last step has made the choice."""
        runs = self.trace()
        costs = {name: largest_cost(runs, name) for name, _ in parameters}
        return Outcome(steps[-1].chosen, self.run(start), runs, costs, steps)


def largest_cost(runs: list[Run], name: str) -> Cost | None:
    """The largest difference in score between runs that differ in `name` alone; None when no two do."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        if run.score is not None:
            others = {option: value for option, value in run.configuration.items() if option != name}
            groups.setdefault(_key(others), []).append(run)
    costs, groups = [], [group for group in groups.values() if len(group) > 1]
    for group in groups:
        best, worst = (choose(group, key=lambda run: run.score) for choose in (max, min))
        values = best.configuration[name], best.score, worst.configuration[name], worst.score
        costs.append(Cost(*values, groups=len(groups)))
    return max(costs, key=lambda cost: cost.difference, default=None)


def _checked(score: float | None) -> float | None:
    assert score is None or math.isfinite(score), f"a score is a finite number, or None for a failure: {score}"
    return score


def _key(configuration: dict) -> tuple:
    return tuple(sorted(configuration.items(), key=lambda item: item[0]))

"""Search algorithms: they choose the configurations to train next, by scores on validation data, and train nothing.

A search is a generator. It yields batches of configurations, whose members can be trained at the same time. It is sent
their scores in the same order (None for a failed one). It returns an `Outcome`.

    greedy, grid, space.optuna_search -> drive(search, validate)

A configuration is a dict, option -> value. `resolve` (such as `resolve_kd_word`) turns it into the options that are
trained. Configurations with the same options are one experiment, which a search asks for once.
"""

import itertools
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from fairseq_kd.core.errors import KDError

SAME = "same"  # as student-temperature: the temperature of the teacher


@dataclass(frozen=True)
class Run:
    """A configuration, the options that it resolves to, and its score on validation data (None: it failed)."""

    configuration: dict
    options: dict
    score: float | None


@dataclass(frozen=True)
class Cost:
    """The largest loss by a wrong value of a parameter: best against worst run of a group.

    The runs of a group differ in this parameter alone. groups: the number of such groups; this is the group with the
    largest difference.
    """

    best_value: object
    best_score: float
    worst_value: object
    worst_score: float
    groups: int

    @property
    def difference(self) -> float:
        """Best score minus worst score, 0 or more."""
        return self.best_score - self.worst_score


@dataclass(frozen=True)
class Step:
    """One choice: the parameters that were varied, the runs that were compared, and the best of them."""

    names: tuple[str, ...]
    runs: list[Run]
    chosen: Run


@dataclass(frozen=True)
class Outcome:
    """The result of a search.

    best: the choice. start: the first configuration. runs: all, in the order in which they were considered. steps: how
    the choice was made. costs: parameter -> its largest cost, None where no two runs differ in it alone.
    """

    best: Run
    start: Run
    runs: list[Run]
    costs: dict[str, Cost | None]
    steps: list[Step]


Search = Generator[list[dict], Sequence[float | None], Outcome]


def resolve_kd_word(configuration: dict) -> dict:
    """The options of kd_word: the student's temperature as a number, and without options that have no effect."""
    from fairseq_kd.loss.divergences import DIVERGENCES, PARAMETERS
    from fairseq_kd.loss.weights import ADAPTIVE, EQUAL, NLL

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
    weights = options.get("teacher-weights", EQUAL)
    idle |= {"teacher-weight-temperature"} if weights not in (ADAPTIVE, NLL) else set()
    idle |= {"teacher-weights-per"} if weights != ADAPTIVE else set()
    return {name: value for name, value in options.items() if name not in idle}


def greedy(parameters, start: dict, resolve: Callable = dict) -> Search:
    """Choose one parameter after the other, with the best values of the former ones. Source: arXiv 2401.06356.

    parameters: [(option, values)] in order. start: one value of each parameter, and other options, which do not change.
    A batch holds all values of one parameter. Among equal scores the value that is named first is chosen.
    Raises KDError for parameters that cannot be searched, and when all values of a parameter failed.
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
    """All combinations in one batch; with temperature and weight it is "tuned KD" (arXiv 2402.14922). See `greedy`."""
    check_parameters(parameters, start)
    runs, names = Runs(resolve), [name for name, _ in parameters]
    combinations = itertools.product(*(values for _, values in parameters))
    candidates = [start | dict(zip(names, values, strict=True)) for values in combinations]
    yield from runs.ask(candidates)
    return runs.outcome(start, parameters, [runs.step(tuple(names), candidates, "all combinations")])


def drive(search: Search, validate: Callable) -> Outcome:
    """Run a search to its end. validate(configurations) -> their scores; it may train them in parallel."""
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
        raise KDError(f"a search needs parameters, each once; found {', '.join(names) or 'none'}")
    for name, values in parameters:
        if not values or len({_key({name: value}) for value in values}) < len(values):
            raise KDError(f"parameter {name} needs values, each once; found {list(values)}")
        if name not in start or start[name] not in values:
            raise KDError(f"the start has {name} = {start.get(name)!r}, which is not among its values {list(values)}")


class Runs:
    """The known scores, and the order in which configurations were considered."""

    def __init__(self, resolve: Callable):
        self._resolve = resolve
        self._scores: dict[tuple, float | None] = {}
        self._considered: dict[tuple, dict] = {}

    def ask(self, configurations: list[dict]) -> Generator[list[dict], Sequence[float | None], None]:
        """Yield the experiments without a score, each once, and keep the scores that are sent."""
        options = {_key(one): one for one in map(self._resolve, configurations)}
        missing = {key: one for key, one in options.items() if key not in self._scores}
        if missing:
            scores = yield list(missing.values())
            self._scores.update(zip(missing, map(_checked, scores), strict=True))
        self._considered |= {_key(one): one for one in configurations if _key(one) not in self._considered}

    def learn(self, configuration: dict, score: float | None) -> None:
        """Add a score that was sent to an earlier process."""
        self._scores[_key(self._resolve(configuration))] = score
        self._considered.setdefault(_key(configuration), configuration)

    def run(self, configuration: dict) -> Run:
        """The run of a configuration that has a score."""
        options = self._resolve(configuration)
        return Run(configuration, options, self._scores[_key(options)])

    def trace(self) -> list[Run]:
        """All runs, in order."""
        return [self.run(configuration) for configuration in self._considered.values()]

    def step(self, names: tuple, configurations: list[dict], what: str) -> Step:
        """Choose the highest score, the first one of equal scores. Raises KDError, naming `what`, when all failed."""
        runs = [self.run(configuration) for configuration in configurations]
        succeeded = [run for run in runs if run.score is not None]
        if not succeeded:
            raise KDError(f"{what} failed, so the search cannot choose one: see the logs of the trainings")
        return Step(names, runs, max(succeeded, key=lambda run: run.score))

    def outcome(self, start: dict, parameters, steps: list[Step]) -> Outcome:
        """The outcome of the search; its choice is the choice of the last step."""
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

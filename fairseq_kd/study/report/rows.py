"""Rows of a report: cells that differ only in their seed, with their results as far as they exist."""

from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from fairseq_kd.evaluation.other_metrics import lower_is_better
from fairseq_kd.scoring.score import LOWER_IS_BETTER
from fairseq_kd.study.claims.base import NAMES as METRICS  # name in a result -> name in a report
from fairseq_kd.study.state import read_output

TEACHER = "teacher"
LONG = ("hypotheses", "references")  # entries of a result that a report does not need


@dataclass(frozen=True)
class Run:
    """One training. results: evaluation set -> result of `evaluate`, None while it does not exist.

    factors: the values of all factors, also of those with one value.
    """

    seed: int | None
    results: dict
    stages: list
    training_seconds: float | None
    factors: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """Runs that differ only in their seed. factors: values of the factors that vary and have an effect on it."""

    factors: dict
    runs: list

    @property
    def label(self) -> str:
        """The values as text, such as "word, noise 10"."""
        return label(self.factors)

    def found(self, on: str) -> list[dict]:
        """The existing results on one evaluation set."""
        return [run.results[on] for run in self.runs if run.results[on] is not None]

    def scores(self, metric: str, on: str) -> list[float]:
        """One score per seed with a result."""
        return [entry["score"] for result in self.found(on) if (entry := entry_of(result, metric))]

    def mean(self, metric: str, on: str) -> float | None:
        """The mean of the scores; None without scores."""
        scores = self.scores(metric, on)
        return mean(scores) if scores else None

    def parameters(self) -> int | None:
        """The number of parameters of the model; None when no result has it."""
        found = [result for on in self.runs[0].results for result in self.found(on)]
        return next((result["parameters"] for result in found if "parameters" in result), None)


@dataclass(frozen=True)
class Study:
    """The rows of results.json.

    factors: factor that varies (without the seed) -> its values in the order of the spec. teachers: rows with the
    method "teacher", one for several that teach together. users: for each of them the numbers of the rows whose
    students it teaches.
    """

    name: str
    sets: list
    factors: dict
    rows: list
    teachers: list
    users: list

    def results(self) -> list[dict]:
        """All results that exist."""
        return [result for on in self.sets for result in self.results_on(on)]

    def results_on(self, on: str) -> list[dict]:
        """The results on one evaluation set."""
        return [result for row in [*self.teachers, *self.rows] for result in row.found(on)]

    def metrics(self) -> list[str]:
        """The metrics that any result has: those of sacreBLEU, then those of `evaluate --metric` by name."""
        results = self.results()
        others = {name for result in results for name in result.get("metrics", {})}
        return [*(name for name in METRICS if any(name in result for result in results)), *sorted(others)]

    def lower_is_better(self, metric: str) -> bool:
        """Whether a lower score is better, as the results say for a metric of `evaluate --metric`."""
        if metric in METRICS:
            return metric in LOWER_IS_BETTER
        return any(lower_is_better(result, metric) for result in self.results() if entry_of(result, metric))


def entry_of(result: dict, metric: str) -> dict | None:
    """The entry of a metric of sacreBLEU or of `evaluate --metric` in a result; None without it."""
    return (result if metric in METRICS else result.get("metrics", {})).get(metric)


def digits(metric: str) -> int:
    """Digits after the point in tables: other metrics than sacreBLEU's often lie between 0 and 1."""
    return 2 if metric in METRICS else 4


def label(factors: dict) -> str:
    """Values of factors as text, each after the name of its factor; the method has no name before it."""
    words = [str(factors["method"])] if "method" in factors else []
    return ", ".join([*words, *(f"{name} {value}" for name, value in factors.items() if name != "method")])


def labels(several: list[dict]) -> list[str]:
    """Labels for a legend, without the values that all rows share, unless a label would be empty."""
    common = [item for item in several[0].items() if all(item in other.items() for other in several)]
    short = [label({name: value for name, value in one.items() if (name, value) not in common}) for one in several]
    return short if all(short) else [label(one) for one in several]


def read_study(results: dict, work: Path) -> Study:
    """Read the results that `write_results` returned; paths in them are relative to `work`."""
    cells = results["cells"]
    factors = _varying(cells)
    grouped = {}
    for cell in cells:
        values = {name: cell["factors"][name] for name in factors if name in cell["factors"]}
        grouped.setdefault(tuple(values.items()), []).append(cell)
    rows = [Row(dict(values), [_run(cell, work) for cell in group]) for values, group in grouped.items()]
    names = [{cell["name"] for cell in group} for group in grouped.values()]
    teachers, users = [], []
    for teacher in with_short_names(results["teachers"]):
        taught = [number for number, group in enumerate(names) if group & set(teacher["cells"])]
        teachers.append(_teacher_row(teacher, [rows[number] for number in taught], factors, work))
        users.append(taught)
    return Study(results["name"], list(cells[0]["results"]), factors, rows, teachers, users)


def _varying(cells: list) -> dict:
    values = {}
    for cell in cells:
        for name, value in cell["factors"].items():
            found = values.setdefault(name, [])
            if value not in found:
                found.append(value)
    values.pop("seed", None)
    return {name: found for name, found in values.items() if len(found) > 1} or {"method": values["method"]}


def _run(cell: dict, work: Path) -> Run:
    results = {name: _read(work, path) for name, path in cell["results"].items()}
    return Run(cell["factors"].get("seed"), results, cell["stages"], cell["training_seconds"], cell["factors"])


def _teacher_row(teacher: dict, taught: list, factors: dict, work: Path) -> Row:
    """The row of a teacher, with the factor values that all its students share, such as the noise of its data.

    A teacher that teaches only together with others has its name in the method.
    """
    shared = {name: taught[0].factors.get(name) for name in factors if name != "method"}
    shared = {name: value for name, value in shared.items() if all(row.factors.get(name) == value for row in taught)}
    shared = {name: value for name, value in shared.items() if value is not None}
    results = {name: _read(work, path) for name, path in teacher["results"].items()}
    method = f"{TEACHER} {teacher['name']}" if "name" in teacher else TEACHER
    return Row({"method": method} | shared, [Run(None, results, teacher["stages"], None)])


def with_short_names(teachers: list[dict]) -> list[dict]:
    """The teachers; those that existed and are named by a path get the shortest end of it that no other path has."""
    paths = {one["name"]: Path(one["name"]).parts for one in teachers if "name" in one and _exists(one)}

    def short(name: str) -> str:
        own = paths[name]
        others = [parts for other, parts in paths.items() if other != name]
        ends = (own[-count:] for count in range(1, len(own)))
        end = next((end for end in ends if all(parts[-len(end) :] != end for parts in others)), own)
        return str(Path(*end))

    return [one | {"name": short(one["name"])} if one.get("name") in paths else one for one in teachers]


def _exists(teacher: dict) -> bool:
    """Whether a teacher existed before the study: its path is then absolute, not relative to the study."""
    return Path(teacher["checkpoint"]).is_absolute()


def _read(work: Path, path: str | None) -> dict | None:
    if path is None:
        return None
    result = read_output(work / path)
    return {name: value for name, value in result.items() if name not in LONG}

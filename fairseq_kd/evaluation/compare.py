"""Systems against a baseline: over segments, and over seeds where there are several.

Keys of a comparison (JSON), "format" 1:

    kind                "comparison"
    metric, segments, alpha, subset
    signatures          {"bootstrap", "approximate_randomisation"}: sacreBLEU's, with trials and seed
    baseline            name of the first system
    pairing             of runs: "seed", or "order", that of the files, where the systems have not all the same seeds
    systems             list, the baseline first, of

        name, files, seeds      a file and the seed of its training for each run
        scores, mean, sd        of the metric; sd over runs, None for one
        bootstrap_mean, ci      of each run; ci is half the width of the interval of 95 %
        difference              mean of system - baseline, None for the baseline, and so is what follows
        bootstrap, approximate_randomisation     {"p": [...], "p_holm": [...]}, run by run against the baseline's run
        paired_t                {"t", "degrees_of_freedom", "p", "p_holm"} over runs; None for one
        decided_by              "paired_t" with several runs, else "approximate_randomisation"
        verdict                 "better" or "worse" where p_holm of that test is below alpha, else "no difference shown"

p_holm is corrected within each test, over all of its p-values. A paired t-test without any variance has p None and
shows nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from fairseq_kd.errors import KDError
from fairseq_kd.evaluation.results import check_same_segments, read_result
from fairseq_kd.evaluation.score import LOWER_IS_BETTER, Scorer, check_seed
from fairseq_kd.evaluation.significance import TESTS, holm, paired_t, segment_tests
from fairseq_kd.progress import Progress

FORMAT = 1


@dataclass(frozen=True)
class CompareOptions:
    """resamples: of the paired bootstrap; trials: of approximate randomisation; alpha: level of significance."""

    metric: str = "bleu"
    resamples: int = 1000
    trials: int = 10000
    alpha: float = 0.05

    def __post_init__(self):
        for name, value in (("bs", self.resamples), ("ar", self.trials)):
            if value < 1:
                raise KDError(f"--paired-{name}-n {value}: must be at least 1")
        if not 0 < self.alpha < 1:
            raise KDError(f"--alpha {self.alpha}: must be between 0 and 1")


def compare(systems: dict[str, list], options: CompareOptions) -> dict:
    """Compare result files; see the module for what is returned.

    systems: name -> files, one a seed; the first is the baseline. Runs of the same seed are a pair; where the systems
    have not all the same seeds, each once, run i of each is paired with run i of the baseline.
    Raises KDError for files that cannot be compared.
    """
    check_seed(of_tests=True)
    _check_systems(systems)
    paths = [path for files in systems.values() for path in files]
    results = {path: read_result(path) for path in paths}
    check_same_segments(paths, [results[path] for path in paths])
    pairing, systems = _pair(systems, results)
    runs = _segment_tests(list(systems.values()), results, options)
    rows = [_describe(index, name, files, results, runs) for index, (name, files) in enumerate(systems.items())]
    _correct(rows[1:])
    for row in rows[1:]:
        row |= _decide(row, options)
    first = results[paths[0]]
    return {
        "format": FORMAT,
        "kind": "comparison",
        "metric": options.metric,
        "segments": len(first["references"]),
        "subset": first["subset"],
        "alpha": options.alpha,
        "signatures": {test: runs[0][test]["signature"] for test in TESTS},
        "baseline": rows[0]["name"],
        "pairing": pairing,
        "systems": rows,
    }


def _check_systems(systems: dict[str, list]) -> None:
    if len(systems) < 2:
        raise KDError("give at least two systems to compare: the first is the baseline")
    counts = {name: len(files) for name, files in systems.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise KDError(f"{found} files: runs are compared seed by seed, so every system needs as many")
    paths = [Path(path).resolve() for files in systems.values() for path in files]
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise KDError(f"{twice} is given twice; each run counts once")


def _pair(systems: dict[str, list], results: dict) -> tuple[str, dict[str, list]]:
    """("seed", the files of each system in the order of their seeds), or ("order", systems as they are)."""
    seeds = [[results[path]["seed"] for path in files] for files in systems.values()]
    sets = {frozenset(of_system) for of_system in seeds}
    if len(sets) > 1 or None in seeds[0] or len(set(seeds[0])) < len(seeds[0]):
        return "order", systems
    return "seed", {name: sorted(files, key=lambda path: results[path]["seed"]) for name, files in systems.items()}


def _segment_tests(files: list[list], results: dict, options: CompareOptions) -> list[dict]:
    """For each run, what `segment_tests` returns: the i-th file of each system against that of the baseline."""
    samples = {"bootstrap": options.resamples, "approximate_randomisation": options.trials}
    progress = Progress("comparing", len(files[0]), "runs")
    found, scorer = [], Scorer(results[files[0][0]]["tokenize"])
    for of_run in zip(*files, strict=True):
        hypotheses = [results[path]["hypotheses"] for path in of_run]
        found.append(segment_tests(options.metric, hypotheses, results[of_run[0]]["references"], samples, scorer))
        progress.advance(1)
    progress.finish()
    return found


def _describe(index: int, name: str, files: list, results: dict, runs: list[dict]) -> dict:
    """The row of a system, not yet corrected."""
    scores = [run["bootstrap"]["scores"][index] for run in runs]
    row = {
        "name": name,
        "files": [str(path) for path in files],
        "seeds": [results[path]["seed"] for path in files],
        "scores": scores,
        "mean": mean(scores),
        "sd": stdev(scores) if len(scores) > 1 else None,
        "bootstrap_mean": [run["bootstrap"]["mean"][index] for run in runs],
        "ci": [run["bootstrap"]["ci"][index] for run in runs],
    }
    if index == 0:
        return row | dict.fromkeys(("difference", *TESTS, "paired_t", "decided_by", "verdict"))
    baseline = [run["bootstrap"]["scores"][0] for run in runs]
    row["difference"] = mean(scores) - mean(baseline)
    row |= {test: {"p": [run[test]["p"][index] for run in runs]} for test in TESTS}
    return row | {"paired_t": paired_t(scores, baseline) if len(scores) > 1 else None}


def _correct(rows: list[dict]) -> None:
    """Add p_holm to each test of all rows."""
    for test in TESTS:
        corrected = iter(holm([p for row in rows for p in row[test]["p"]]))
        for row in rows:
            row[test]["p_holm"] = [next(corrected) for _ in row[test]["p"]]
    tested = [row["paired_t"] for row in rows if row["paired_t"]]
    for found, p in zip(tested, holm([found["p"] for found in tested]), strict=True):
        found["p_holm"] = p


def _decide(row: dict, options: CompareOptions) -> dict:
    test = "paired_t" if row["paired_t"] else "approximate_randomisation"
    p = row["paired_t"]["p_holm"] if row["paired_t"] else row[test]["p_holm"][0]
    better = (row["difference"] < 0) == (options.metric in LOWER_IS_BETTER)
    shown = p is not None and p < options.alpha and row["difference"] != 0
    return {"decided_by": test, "verdict": ("better" if better else "worse") if shown else "no difference shown"}

"""Compare systems with a baseline: tests over segments, and tests over runs where each system has several runs.

Keys of a comparison (JSON), "format" 2 (format 1 had one "pairing" and one signature per test, and no "welch_t"):

    kind                "comparison"
    metric, segments, alpha, subset
    signatures          {"bootstrap", "approximate_randomisation"} -> the different signatures of the test
    baseline            name of the first system
    changes             on request: the segments gained and lost by each other system, see `changes`
    systems             list of entries, the baseline first; each entry has

        name, files, seeds      the file and the training seed of each run, sorted by seed
        scores, mean, sd        of the metric; sd over runs, None for a single run
        bootstrap_mean, ci      one value per run; ci is half the width of the 95 % interval
        pairing                 with the baseline's runs: "seed" where both have the same seeds and each seed once;
                                "single" where both have one run; else "none". In the baseline's entry this and all
                                following keys are None
        difference              mean of the system - mean of the baseline
        bootstrap, approximate_randomisation     {"p", "p_holm", "signatures"}: one list per key, with one value per
                                run, compared with the baseline's run of the same seed; empty if not paired
        scatter                 of each run's difference in the bootstrap: {"error": standard errors, "interval": 95 %
                                intervals}, one value per run; empty if not paired. Older files lack this key
        paired_t                {"t", "degrees_of_freedom", "p", "p_holm"} over runs paired by seed, else None
        welch_t                 the same keys over runs that are not paired, else None
        decided_by              "paired_t" or "welch_t" with several runs, else "approximate_randomisation"
        verdict                 "better" or "worse" where p_holm of that test is below alpha, else "no difference shown"

The order in which the files of a system are given does not matter. A signature with "ar:exact_2^k" means that all
exchanges of the k segments with different statistics were counted.
p_holm is corrected within each test over all of its p-values; the two t-tests count as one test. A t-test without any
variance has p None and shows no difference.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.progress import Progress
from fairseq_kd.evaluation.changes import ChangeOptions
from fairseq_kd.evaluation.other_metrics import check_metric, comparable, lower_is_better
from fairseq_kd.evaluation.results import check_same_segments, read_result
from fairseq_kd.evaluation.segment_changes import changes_of_systems
from fairseq_kd.evaluation.significance import TESTS, holm, paired_t, segment_tests, welch_t
from fairseq_kd.scoring.score import check_seed

FORMAT = 2
T_TESTS = ("paired_t", "welch_t")
SCATTER = ("error", "interval")


@dataclass(frozen=True)
class CompareOptions:
    """metric: of sacreBLEU, or the name of a metric of `evaluate --metric`. resamples: of the paired bootstrap.

    trials: of approximate randomisation. alpha: significance level. segments: to count the segments gained and lost.
    """

    metric: str = "bleu"
    resamples: int = 1000
    trials: int = 10000
    alpha: float = 0.05
    segments: ChangeOptions | None = None

    def __post_init__(self):
        for name, value in (("bs", self.resamples), ("ar", self.trials)):
            if value < 1:
                raise KDError(f"--paired-{name}-n {value}: must be at least 1")
        if not 0 < self.alpha < 1:
            raise KDError(f"--alpha {self.alpha}: must be between 0 and 1")


def compare(systems: dict[str, list], options: CompareOptions) -> dict:
    """Compare result files. The module's docstring lists the keys of the returned comparison.

    systems: name -> files, one file per run; the first system is the baseline. Runs with the same seed are paired where
    a system has the same seeds as the baseline. Otherwise the runs are not paired, and the t-test is Welch's.
    Raises KDError for files that cannot be compared.
    """
    check_seed(of_tests=True)
    _check_systems(systems)
    paths = [path for files in systems.values() for path in files]
    results = {path: read_result(path) for path in paths}
    check_same_segments(paths, [results[path] for path in paths], options.metric)
    check_metric(paths, [results[path] for path in paths], options.metric)
    systems = {name: _by_seed(files, results) for name, files in systems.items()}
    baseline, *others = systems
    pairings = {name: _pairing(systems[name], systems[baseline], results) for name in others}
    changes = {}
    if options.segments is not None:  # before the tests, which take longer
        changes["changes"] = changes_of_systems(systems, pairings, results, options.segments)
    measured = _measure(systems, pairings, results, options)
    first = results[systems[baseline][0]]
    rows = [_describe(name, files, results, measured) for name, files in systems.items()]
    for row in rows[1:]:
        row |= _test(row, rows[0], pairings[row["name"]], [measured[path] for path in systems[row["name"]]])
    _correct(rows[1:])
    for row in rows[1:]:
        row |= _decide(row, options, lower_is_better(first, options.metric))
    return {
        "format": FORMAT,
        "kind": "comparison",
        "metric": options.metric,
        "segments": len(first["references"]),
        "subset": first["subset"],
        "alpha": options.alpha,
        "signatures": {test: _each_once(found[test]["signatures"] for found in measured.values()) for test in TESTS},
        "baseline": baseline,
        **changes,
        "systems": rows,
    }


def _check_systems(systems: dict[str, list]) -> None:
    if len(systems) < 2:
        raise KDError("give at least two systems to compare; the first is the baseline")
    counts = {name: len(files) for name, files in systems.items()}
    if len({count > 1 for count in counts.values()}) > 1:
        found = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise KDError(
            f"{found} files: one run does not show how much runs vary, so it cannot be tested against several runs; "
            "give one file for every system, or at least two"
        )
    paths = [Path(path).resolve() for files in systems.values() for path in files]
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise KDError(f"{twice} is given twice, and each run must count once: leave one of them out")


def _by_seed(files: list, results: dict) -> list:
    """The files sorted by seed; files with equal seeds, or without a seed, are sorted by name."""
    return sorted(files, key=lambda path: (results[path]["seed"] is None, results[path]["seed"] or 0, str(path)))


def _pairing(files: list, baseline_files: list, results: dict) -> str:
    """Return "seed", "single" or "none"; see the module. Both systems have one run, or both have several."""
    seeds, theirs = ([results[path]["seed"] for path in paths] for paths in (files, baseline_files))
    if None not in seeds and len(set(seeds)) == len(seeds) and seeds == theirs:
        return "seed"
    return "single" if len(files) == 1 else "none"


def _measure(systems: dict, pairings: dict, results: dict, options: CompareOptions) -> dict:
    """file -> test -> the entries of this file in the result of `segment_tests`."""
    samples = {"bootstrap": options.resamples, "approximate_randomisation": options.trials}
    baseline, *others = systems
    paired = [systems[name] for name in others if pairings[name] != "none"]
    alone = [[path] for name in others if pairings[name] == "none" for path in systems[name]]
    progress = Progress("comparing", len(results), "results")
    measured = {}
    for paths in [*zip(systems[baseline], *paired, strict=True), *alone]:
        compared = [comparable(results[path], options.metric)[0] for path in paths]
        scorer = comparable(results[paths[0]], options.metric)[1]
        found = segment_tests(options.metric, compared, results[paths[0]]["references"], samples, scorer)
        for index, path in enumerate(paths):
            measured[path] = {test: {key: values[index] for key, values in found[test].items()} for test in TESTS}
            progress.advance(1)
    progress.finish()
    return measured


def _describe(name: str, files: list, results: dict, measured: dict) -> dict:
    """The row of a system. The keys that the baseline does not have are None."""
    bootstraps = [measured[path]["bootstrap"] for path in files]
    scores = [found["scores"] for found in bootstraps]
    row = {
        "name": name,
        "files": [str(path) for path in files],
        "seeds": [results[path]["seed"] for path in files],
        "scores": scores,
        "mean": mean(scores),
        "sd": stdev(scores) if len(scores) > 1 else None,
        "bootstrap_mean": [found["mean"] for found in bootstraps],
        "ci": [found["ci"] for found in bootstraps],
    }
    keys = ("pairing", "difference", *TESTS, "scatter", *T_TESTS, "decided_by", "verdict")
    return row | dict.fromkeys(keys)


def _test(row: dict, baseline: dict, pairing: str, measured: list[dict]) -> dict:
    """The uncorrected tests of a system against the baseline. measured: the measurements of each run of the system."""
    found = {"pairing": pairing, "difference": row["mean"] - baseline["mean"]}
    for test in TESTS:
        runs = [] if pairing == "none" else [run[test] for run in measured]
        found[test] = {key: [run[key] for run in runs] for key in ("p", "signatures")}
    paired = [] if pairing == "none" else measured
    found["scatter"] = {key: [run["bootstrap"][key] for run in paired] for key in SCATTER}
    if pairing == "seed" and len(row["scores"]) > 1:
        found["paired_t"] = paired_t(row["scores"], baseline["scores"])
    elif pairing == "none":
        found["welch_t"] = welch_t(row["scores"], baseline["scores"])
    return found


def _correct(rows: list[dict]) -> None:
    """Add p_holm to each test in all rows."""
    for test in TESTS:
        corrected = iter(holm([p for row in rows for p in row[test]["p"]]))
        for row in rows:
            row[test]["p_holm"] = [next(corrected) for _ in row[test]["p"]]
    tested = [row[test] for row in rows for test in T_TESTS if row[test]]
    for found, p in zip(tested, holm([found["p"] for found in tested]), strict=True):
        found["p_holm"] = p


def _decide(row: dict, options: CompareOptions, lower: bool) -> dict:
    test = next((test for test in T_TESTS if row[test]), "approximate_randomisation")
    p = row[test]["p_holm"] if test in T_TESTS else row[test]["p_holm"][0]
    better = (row["difference"] < 0) == lower
    shown = p is not None and p < options.alpha and row["difference"] != 0
    return {"decided_by": test, "verdict": ("better" if better else "worse") if shown else "no difference shown"}


def _each_once(signatures) -> list[str]:
    return [signature for signature in dict.fromkeys(signatures) if signature is not None]

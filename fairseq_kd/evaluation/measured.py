"""The scores of systems run by run, and of resampled test sets: what the claims of a study are tested from.

Keys of the file (JSON), which `fairseq-kd compare --scores-only` writes:

    format, kind        1, "scores"
    metric, segments, subset, signature
    systems             list of {"name", "files", "seeds", "scores", "resampled"}, in the order of the command line.
                        Runs are in the order of their seeds. resampled: the scores of the resamples of a single run,
                        with the same resamples for all systems; None with several runs
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.progress import Progress
from fairseq_kd.evaluation.estimates import Estimate, over_seeds, over_segments
from fairseq_kd.evaluation.other_metrics import check_metric, comparable
from fairseq_kd.evaluation.results import check_same_segments, read_result
from fairseq_kd.evaluation.significance import measured_scores
from fairseq_kd.scoring.score import check_seed

FORMAT = 1
DIGITS = 6  # of the scores of resamples after the point


@dataclass(frozen=True)
class Measured:
    """Scores by system.

    scores: name of the system -> scores (runs,), the same seeds in the same order. resampled: name -> scores of the
    same resamples (n,); empty with several runs.
    """

    scores: dict
    resampled: dict
    segments: int

    @classmethod
    def of(cls, content: dict) -> "Measured":
        """content: of a file that `measure` describes."""
        systems = content["systems"]
        scores = {system["name"]: np.array(system["scores"]) for system in systems}
        resampled = {s["name"]: np.array(s["resampled"]) for s in systems if s["resampled"] is not None}
        return cls(scores, resampled, content["segments"])

    def estimate(self, statistic: Callable[[dict], np.ndarray]) -> Estimate:
        """The estimate of a statistic. statistic: name -> scores (n,) -> one value per run or resample (n,).

        Over seeds if there are several runs, else over segments.
        """
        values = statistic(self.scores)
        if len(values) > 1:
            return over_seeds(values)
        return over_segments(values[0], statistic(self.resampled), self.segments)

    def means(self) -> dict:
        """Name of the system -> mean score."""
        return {name: float(values.mean()) for name, values in self.scores.items()}


def measure(systems: dict[str, list], metric: str, resamples: int) -> dict:
    """The content of the file that the module describes.

    systems: name -> files, one file per run, runs with the same seeds in each system. The systems may have translated
    different sources of the same references, such as a test set with and without noise.
    Raises KDError for files that cannot be compared.
    """
    check_seed(of_tests=True)
    paths = [path for files in systems.values() for path in files]
    results = {path: read_result(path) for path in paths}
    check_same_segments(paths, [results[path] for path in paths], metric, sources=False)
    check_metric(paths, [results[path] for path in paths], metric)
    runs = _paired(systems, results)
    first = results[paths[0]]
    single = len(next(iter(runs.values()))) == 1
    progress = Progress("scoring", len(paths), "results")
    rows = []
    for name, files in runs.items():
        scores, resampled = [], None
        for path in files:
            units, scorer = comparable(results[path], metric)
            found = measured_scores(metric, [units], first["references"], resamples if single else 0, scorer)
            scores += found[0]
            resampled = np.round(found[1][0], DIGITS).tolist() if single else None
            progress.advance(1)
        seeds = [results[path]["seed"] for path in files]
        row = {"name": name, "files": [str(path) for path in files], "seeds": seeds}
        rows.append(row | {"scores": scores, "resampled": resampled})
    progress.finish()
    about = {"metric": metric, "segments": len(first["references"]), "subset": first["subset"], "signature": found[2]}
    return {"format": FORMAT, "kind": "scores", **about, "systems": rows}


def _paired(systems: dict[str, list], results: dict) -> dict[str, list]:
    """The files of each system in the order of their seeds. Raises KDError unless all systems have the same seeds."""
    seeds = {name: [results[path]["seed"] for path in files] for name, files in systems.items()}
    if all(len(files) == 1 for files in systems.values()):
        return systems
    (name, first), *others = seeds.items()
    if None in first or len(set(first)) < len(first):
        raise KDError(f"{name} has the seeds {first}: runs are paired by seed, so each run needs a seed of its own")
    for other, theirs in others:
        if None in theirs or sorted(theirs) != sorted(first):
            raise KDError(f"{other} has the seeds {theirs}, {name} has {first}: runs are paired by seed, so all "
                          "systems must have the same seeds")  # fmt: skip
    return {name: sorted(files, key=lambda path: results[path]["seed"]) for name, files in systems.items()}


def summary(measured: dict) -> list[str]:
    """The lines that `fairseq-kd compare --scores-only` prints."""
    lines = [f"{measured['metric']} of {measured['segments']:,} segments, {measured['signature']}"]
    for system in measured["systems"]:
        scores = " ".join(f"{score:.2f}" for score in system["scores"])
        count = "" if system["resampled"] is None else f", {len(system['resampled']):,} resamples"
        lines.append(f"{system['name']}: {scores}{count}")
    return lines

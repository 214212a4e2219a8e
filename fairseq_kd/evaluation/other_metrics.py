"""Metrics of other packages: `evaluate --metric [NAME=]MODULE:CALLABLE`, for example a neural metric.

The callable is the user's code. It is called with three lists, which have one text per segment:

    callable(sources, hypotheses, references)

It returns one of these, with finite numbers:

    a sequence of numbers     one per segment; the score of the corpus is their mean
    a number                  the score of the corpus
    a mapping                 "segments", "score" or both, as above; and if wanted
                              "signature": text that identifies the metric, such as its model and version
                              "lower_is_better": True or False (the default)

Before the decoding begins it is called once with at most two segments whose hypotheses are the references, so that most
errors show early.

The result has an entry "metrics": name -> {"score", "signature", "verbose", "callable", "lower_is_better", "segments"},
with intervals also "mean" and "ci" as in `Scorer.score`. "segments" is None if the callable gives none. The tests of
`compare` need segments whose mean is the score.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from fairseq_kd.core.callables import import_callable, reason, signature
from fairseq_kd.core.errors import KDError
from fairseq_kd.evaluation.significance import segment_tests
from fairseq_kd.scoring.score import LOWER_IS_BETTER, METRICS, Scorer

PLACE = re.compile(r"(?:([A-Za-z][\w.-]*)=)?([A-Za-z_][\w.]*:[A-Za-z_][\w.]*)")
KEYS = {"segments", "score", "signature", "lower_is_better"}
TRIED = 2  # segments of the call before the decoding
MEAN_IS_SCORE = 1e-6  # relative difference up to which the mean of the segments is the score


@dataclass(frozen=True)
class OtherMetric:
    """A metric of the user. name: in results. place: MODULE:CALLABLE."""

    name: str
    place: str
    function: Callable

    @classmethod
    def load(cls, text: str) -> "OtherMetric":
        """Import the callable of [NAME=]MODULE:CALLABLE. Without NAME it has the name of the callable.

        Raises KDError for text of another form, and when the import fails.
        """
        found = PLACE.fullmatch(text)
        if found is None:
            raise KDError(f"--metric {text}: must be MODULE:CALLABLE or NAME=MODULE:CALLABLE")
        name, place = found[1] or found[2].replace(":", ".").rsplit(".", 1)[1], found[2]
        if name in METRICS:
            raise KDError(f"--metric {text}: must be another name, because {name} is measured by sacreBLEU: give "
                          f"NAME={place}")  # fmt: skip
        return cls(name, place, import_callable("--metric", place))

    def check(self, sources: list[str], references: list[str]) -> None:
        """Call the metric with the first segments. Raises KDError when it fails."""
        self._call(sources[:TRIED], references[:TRIED], references[:TRIED])

    def measure(self, sources: list[str], hypotheses: list[str], references: list[str], resamples: int) -> dict:
        """The entry of the result; see the module. resamples: of the bootstrap over segments; 0: no interval."""
        found = self._call(sources, hypotheses, references)
        entry = {
            "score": found.score,
            "signature": f"{self.name}|{found.signature or signature(self.place)}",
            "verbose": f"{self.name} = {found.score:.4f}",
            "callable": self.place,
            "lower_is_better": found.lower_is_better,
            "segments": found.segments,
        }
        if resamples > 1 and has_tests(entry):
            samples = {"bootstrap": resamples, "approximate_randomisation": 1}
            tested = segment_tests(self.name, [found.segments], references, samples, SegmentScorer(entry))["bootstrap"]
            entry |= {"mean": tested["mean"][0], "ci": tested["ci"][0]}
            entry["verbose"] += f" (μ = {entry['mean']:.4f} ± {entry['ci']:.4f})"
        return entry

    def _call(self, sources: list[str], hypotheses: list[str], references: list[str]) -> "Found":
        try:
            answer = self.function(list(sources), list(hypotheses), list(references))
        except Exception as error:  # the user's code can raise anything
            raise KDError(f"--metric {self.place} failed ({reason(error)}): correct it, or leave it out") from error
        try:
            return Found.of(answer, len(hypotheses))
        except (TypeError, ValueError) as error:
            raise KDError(
                f"--metric {self.place} must return a finite number, one finite number per segment, or a mapping of "
                f"them ({error}): see `fairseq_kd.evaluation.other_metrics`"
            ) from error


@dataclass(frozen=True)
class Found:
    """What a metric has returned, checked."""

    score: float
    segments: list[float] | None
    signature: str | None = None
    lower_is_better: bool = False

    @classmethod
    def of(cls, answer, count: int) -> "Found":
        """count: of the segments. Raises TypeError or ValueError for an answer of another form."""
        if not isinstance(answer, Mapping):
            numbers = _numbers(answer)
            answer = {"score": answer} if numbers.ndim == 0 else {"segments": answer}
        if unknown := answer.keys() - KEYS:
            raise ValueError(f"it has the key {min(map(str, unknown))!r}, known are {', '.join(sorted(KEYS))}")
        segments, score = answer.get("segments"), answer.get("score")
        if segments is None and score is None:
            raise ValueError("it has neither segments nor score")
        if segments is not None:
            segments = _numbers(segments)
            if segments.shape != (count,):
                raise ValueError(f"it has {segments.size} numbers for {count} segments")
        score = segments.mean() if score is None else _numbers(score)
        if score.ndim:
            raise ValueError("its score is not one number")
        signature, lower = answer.get("signature"), answer.get("lower_is_better", False)
        if not isinstance(signature, str | None) or not isinstance(lower, bool):
            raise TypeError("its signature must be text, and lower_is_better True or False")
        return cls(float(score), None if segments is None else segments.tolist(), signature, lower)


def _numbers(value) -> np.ndarray:
    found = np.asarray(value, dtype=np.float64)
    if not np.isfinite(found).all():
        raise ValueError("a number is not finite")
    return found


def load_metrics(texts: list[str] | None) -> tuple[OtherMetric, ...]:
    """The metrics of --metric. Raises KDError as `OtherMetric.load`, and for two metrics of one name."""
    metrics = tuple(map(OtherMetric.load, texts or ()))
    names = [metric.name for metric in metrics]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise KDError(f"--metric: the name {twice} is given twice: give one of them another NAME=MODULE:CALLABLE")
    return metrics


@dataclass(frozen=True)
class SegmentScorer:
    """In place of `Scorer`, where the tests over segments compare the scores of segments instead of hypotheses."""

    entry: dict
    name: str = field(init=False)

    def metric(self, name: str, references=None) -> "SegmentScorer":
        """What `significance` uses of a metric of sacreBLEU."""
        object.__setattr__(self, "name", name)
        return self

    def _extract_corpus_statistics(self, segments: list[float], references) -> list[list[float]]:
        return [[score, 1.0] for score in segments]

    def _compute_score_from_stats(self, stats) -> SimpleNamespace:
        return SimpleNamespace(score=stats[0] / stats[1], name=self.entry["signature"].split("|")[0])

    def get_signature(self) -> "Signature":
        """The signature without the name, to which tests are added."""
        return Signature([self.entry["signature"].partition("|")[2]])


@dataclass
class Signature:
    """Parts that are joined by "|", as in sacreBLEU."""

    parts: list[str]

    def update(self, key: str, value: str) -> None:
        """Add a part; the seed is the last one."""
        self.parts.append(f"{key}:{value}")
        self.parts.sort(key=lambda part: part.startswith("seed:"))

    def __str__(self) -> str:
        return "|".join(self.parts)


def has_tests(entry: dict) -> bool:
    """Whether tests over segments are possible: the score is the mean of segments."""
    if entry["segments"] is None:
        return False
    return abs(np.mean(entry["segments"]) - entry["score"]) <= MEAN_IS_SCORE * max(1.0, abs(entry["score"]))


def lower_is_better(result: dict, metric: str) -> bool:
    """Whether a lower score is better. metric: of sacreBLEU, or the name of another one in the result."""
    return metric in LOWER_IS_BETTER if metric in METRICS else result["metrics"][metric]["lower_is_better"]


def comparable(result: dict, metric: str) -> tuple[list, Scorer | SegmentScorer]:
    """(what the tests over segments compare: the hypotheses, or the scores of segments; how it is scored)."""
    if metric in METRICS:
        return result["hypotheses"], Scorer(result["tokenize"])
    entry = result["metrics"][metric]
    return entry["segments"], SegmentScorer(entry)


def check_metric(paths: list, results: list[dict], metric: str) -> None:
    """Raises KDError when a result lacks the metric, has no segments of it, or has another signature.

    Does nothing for the metrics of sacreBLEU.
    """
    if metric in METRICS:
        return
    for path, result in zip(paths, results, strict=True):
        others = result.get("metrics", {})
        if metric not in others:
            known = ", ".join([*METRICS, *others])
            raise KDError(f"{path} has no metric {metric!r}, it has {known} (--metric): evaluate with this metric")
        if not has_tests(others[metric]):
            raise KDError(f"{path} has no scores of segments whose mean is {metric}, so no test over segments is "
                          "possible: let the metric return one score per segment")  # fmt: skip
        signatures = [found["metrics"][metric]["signature"] for found in (results[0], result)]
        if signatures[0] != signatures[1]:
            raise KDError(f"{path} was scored by {signatures[1]}, {paths[0]} by {signatures[0]}: evaluate all systems "
                          "with the same metric")  # fmt: skip

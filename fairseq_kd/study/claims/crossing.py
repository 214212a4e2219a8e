"""`crossing(word, seq; noise) by bleu`: at which value of a numeric factor does the better one of two change.

Between the values of the factor, the difference of the two is interpolated linearly. The interval is the set of all
values of the factor at which a test at the level 0.05 does not tell the two apart. It holds the true crossing with a
probability of 95 %, also with few seeds, for which a bootstrap gives intervals that are too short (Fieller 1954).
"""

import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fairseq_kd.core.errors import KDError
from fairseq_kd.evaluation.estimates import intervals_over_seeds
from fairseq_kd.evaluation.measured import Measured
from fairseq_kd.study.claims.base import NAMES, TAIL, TAIL_FORM, UNDECIDED, Claim, Kind, Outcome, better, register
from fairseq_kd.study.claims.finder import Finder, label

CROSSING, NONE, SEVERAL = "crossing", "no crossing", "several crossings"
POINTS = 100  # per step of the factor, at which the two are compared


@register
class Crossing(Kind):
    """Where the second value of a factor becomes better than the first, or the other way round."""

    name = "crossing"
    form = f"crossing(A, B; FACTOR) {TAIL_FORM}"
    hint = re.compile(r"^crossing\b")
    pattern = re.compile(rf"crossing\((?P<one>[^;]+), (?P<other>[^;]+); (?P<factor>[^)\s]+)\){TAIL}")

    def read(self, finder: Finder, found: re.Match) -> Claim:
        """details: factor, levels in ascending order, the two values, and for each the names of its systems."""
        metric, on = finder.check_metric(found["metric"]), finder.evaluation_set(found["on"])
        own, *values = finder.compared(found["one"], found["other"])
        factor = found["factor"]
        if own == factor:
            raise KDError(f"{finder.quoted}, compares values of {factor} and varies {factor}, so one of its values "
                          "would be lost; name another factor")  # fmt: skip
        at = finder.conditions(found["at"], on, (own, factor))
        levels = [finder.levels(factor, {own: value} | at, on) for value in values]
        if levels[0] != levels[1]:
            raise KDError(f"{finder.quoted}: the two sides must have the same values of {factor}, found {levels[0]} "
                          f"and {levels[1]}; name other cells")  # fmt: skip
        wanted = [[{own: value} | at | {factor: level} for level in levels[0]] for value in values]
        finder.check_pair(wanted[0][0], wanted[1][0], own, on)
        details = {"factor": factor, "levels": levels[0], "one": values[0], "other": values[1], "at": at}
        details["names"] = [[label(one) for one in side] for side in wanted]
        return Claim(finder.text, self.name, metric, on, finder.systems(on, [*wanted[0], *wanted[1]]), details)

    def judge(self, claim: dict, measured: Measured) -> Outcome:
        """The crossings of the means, and a verdict by the values of the factor at which the two can be told apart."""
        sign, (one, other) = better(claim["metric"]), claim["names"]
        pairs = list(zip(one, other, strict=True))
        found = [measured.estimate(lambda scores, a=a, b=b: sign * (scores[b] - scores[a])) for a, b in pairs]
        levels = np.array(claim["levels"], dtype=float)
        roots = crossings(levels, np.array([estimate.value for estimate in found]))
        gains = [sign * (measured.scores[b] - measured.scores[a]) for a, b in pairs]
        resampled = None
        if len(gains[0]) == 1:
            resampled = np.array([estimate.resampled for estimate in found])
        points, states, edges = _compare(levels, np.array(gains), resampled)
        verdict = _verdict(states)
        stretch = _stretch(points, states, edges, roots[0]) if len(roots) == 1 else None
        return Outcome(
            said=_said(claim, roots, [estimate.value for estimate in found]),
            test=f"{found[0].test} at each {claim['factor']}".replace("paired t-test", "paired t-tests"),
            estimate=roots[0] if len(roots) == 1 else None,
            interval=stretch and (stretch.low, stretch.high),
            detectable=lambda level: _largest([estimate.detectable(level) for estimate in found]),
            finds=f"a difference of {{}} {NAMES[claim['metric']]} or more at each {claim['factor']}",
            sample=found[0].sample,
            note=_note(claim, stretch),
            verdict=verdict,
        )


@dataclass(frozen=True)
class Stretch:
    """Values of a factor at which two systems cannot be told apart. open: whether it reaches an end of the values."""

    low: float
    high: float
    open: bool


def crossings(levels: np.ndarray, differences: np.ndarray) -> list[float]:
    """The values at which the piecewise linear function through (levels, differences) changes its sign."""
    apart, found = np.flatnonzero(differences), []
    for i, j in pairwise(apart):
        if differences[i] * differences[j] < 0:
            if j == i + 1:
                share = differences[i] / (differences[i] - differences[j])
                found.append(float(levels[i] + share * (levels[j] - levels[i])))
            else:  # it is 0 at the levels between
                found.append(float((levels[i + 1] + levels[j - 1]) / 2))
    return found


def _compare(levels: np.ndarray, gains: np.ndarray, resampled: np.ndarray | None) -> tuple:
    """(points (G,), sign of the difference at each point or 0 if it is not decided, bounds of its interval (2, G)).

    gains: (levels, runs). resampled: (levels, n), for a single run.
    """
    points = np.unique(np.concatenate([np.linspace(a, b, POINTS + 1) for a, b in pairwise(levels)]))
    weights = np.array([np.interp(points, levels, row) for row in np.eye(len(levels))]).T  # (G, levels)
    if resampled is not None:
        bounds = np.quantile(weights @ resampled, (0.025, 0.975), axis=1)
    else:
        bounds = intervals_over_seeds(weights @ gains)
    states = (bounds[0] > 0).astype(int) - (bounds[1] < 0)
    return points, states, bounds


def _verdict(states: np.ndarray) -> str:
    decided = states[states != 0]
    changes = int((np.diff(decided) != 0).sum())
    if changes:
        return CROSSING if changes == 1 else SEVERAL
    return NONE if len(decided) == len(states) else UNDECIDED


def _stretch(points: np.ndarray, states: np.ndarray, bounds: np.ndarray, root: float) -> Stretch | None:
    """The values around a crossing of the means at which the two cannot be told apart."""
    middle = int(np.abs(points - root).argmin())
    first = last = middle
    while first > 0 and states[first - 1] == 0:
        first -= 1
    while last < len(points) - 1 and states[last + 1] == 0:
        last += 1
    low, high = (_edge(points, states, bounds, *pair) for pair in ((first, first - 1), (last, last + 1)))
    return Stretch(low, high, first == 0 or last == len(points) - 1)


def _edge(points: np.ndarray, states: np.ndarray, bounds: np.ndarray, inside: int, outside: int) -> float:
    """Where the bound of the interval is 0, between a point that is not decided and its neighbour that is."""
    if not 0 <= outside < len(points) or states[inside] != 0:
        return float(points[inside])
    bound = bounds[0] if states[outside] > 0 else bounds[1]
    share = bound[inside] / (bound[inside] - bound[outside])
    return float(points[inside] + share * (points[outside] - points[inside]))


def _said(claim: dict, roots: list[float], differences: list[float]) -> str:
    factor, names = claim["factor"], (str(claim["one"]), str(claim["other"]))
    last = next((value for value in reversed(differences) if value), 0.0)
    leader, loser = (names[1], names[0]) if last > 0 else names
    if len(roots) == 1:
        return f"{leader} becomes better than {loser} at {factor} {roots[0]:.4g}"
    if roots:
        places = ", ".join(f"{root:.4g}" for root in roots)
        return f"{names[0]} and {names[1]} change places at {factor} {places}"
    if last == 0:
        return f"{names[0]} and {names[1]} score the same at each {factor}"
    return f"{leader} is better than {loser} at each {factor} in the means"


def _note(claim: dict, stretch: Stretch | None) -> str:
    if stretch is None or not stretch.open:
        return ""
    return f"The interval reaches an end of the values of {claim['factor']}, and the crossing may be beyond it."


def _largest(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None

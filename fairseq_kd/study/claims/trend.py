"""`bleu rises with width at method ce`, `bleu falls with noise`: a score has a trend over a numeric factor.

The statistic is the slope of the straight line through the scores over the positions 0, 1, 2, ... of the values in
ascending order, so it does not depend on the unit of the factor: the mean change per step.
"""

import re
from functools import partial

import numpy as np

from fairseq_kd.core.errors import KDError
from fairseq_kd.evaluation.estimates import Estimate
from fairseq_kd.evaluation.measured import Measured
from fairseq_kd.study.claims.base import (
    CONDITIONS,
    NAMES,
    REFUTED,
    SUPPORTED,
    UNDECIDED,
    Claim,
    Kind,
    Outcome,
    register,
)
from fairseq_kd.study.claims.finder import Finder, label

DIRECTIONS = {"rises": 1, "falls": -1}


@register
class Trend(Kind):
    """A score rises or falls with each value of a factor."""

    name = "trend"
    form = "METRIC rises|falls with FACTOR [at FACTOR VALUE, ...] [on SET]"
    hint = re.compile(r"^\S+ (rises|falls)\b")
    pattern = re.compile(
        rf"(?P<metric>\S+) (?P<direction>rises|falls) with (?P<factor>\S+){CONDITIONS}(?P<by> by \S+)?"
    )

    def read(self, finder: Finder, found: re.Match) -> Claim:
        """details: factor, levels in ascending order, direction; the systems are in the order of the levels."""
        metric, on = finder.check_metric(found["metric"]), finder.evaluation_set(found["on"])
        factor = found["factor"]
        if found["by"]:
            raise KDError(f"{finder.quoted}:{found['by']} has no effect, because the claim begins with its metric; "
                          "leave it out")  # fmt: skip
        at = finder.conditions(found["at"], on, (factor,))
        levels = finder.levels(factor, at, on)
        wanted = [at | {factor: level} for level in levels]
        details = {"factor": factor, "levels": levels, "at": at, "direction": found["direction"]}
        details["names"] = [label(one) for one in wanted]
        return Claim(finder.text, self.name, metric, on, finder.systems(on, wanted), details)

    def judge(self, claim: dict, measured: Measured) -> Outcome:
        """Whether the slope has the claimed sign. Supported only if also every step of the means has it."""
        names, sign, metric = claim["names"], DIRECTIONS[claim["direction"]], NAMES[claim["metric"]]
        found = measured.estimate(lambda scores: slope([scores[name] for name in names]))
        means = [measured.means()[name] for name in names]
        against = [number for number, step in enumerate(np.diff(means)) if sign * step < 0]
        favours, note = (SUPPORTED if sign * found.value > 0 else REFUTED), ""
        if against and favours == SUPPORTED:
            steps = ", ".join(f"from {claim['levels'][n]} to {claim['levels'][n + 1]}" for n in against)
            favours, note = UNDECIDED, f"The means go the other way {steps}, so the claim cannot be supported."
        shown = ", ".join(f"{mean:.2f}" for mean in means)
        return Outcome(
            said=f"{metric} is {shown} at {claim['factor']} {', '.join(map(str, claim['levels']))}, the mean change "
            f"per step is {found.value:+.2f}",
            test=f"{found.test}, of the slope",
            estimate=found.value,
            interval=found.interval(),
            p=found.beside(),
            favours=favours,
            detectable=partial(Estimate.detectable, found),
            finds="a change of {} per step or more",
            sample=found.sample,
            note=note,
        )


def slope(scores: list) -> np.ndarray:
    """The least-squares slope over the positions of the levels. scores: (levels, n). Returns (n,)."""
    positions = np.arange(len(scores)) - (len(scores) - 1) / 2
    return positions @ np.array(scores) / (positions @ positions)

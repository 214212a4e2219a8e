"""`word = ce within 0.5 by bleu`: two values of a factor score the same, up to a margin. Two one-sided tests."""

import math
import re
from functools import partial

from fairseq_kd.core.errors import KDError
from fairseq_kd.evaluation.estimates import Estimate
from fairseq_kd.evaluation.measured import Measured
from fairseq_kd.study.claims.base import NAMES, REFUTED, SUPPORTED, TAIL, TAIL_FORM, Claim, Kind, Outcome, register
from fairseq_kd.study.claims.finder import Finder, label


@register
class Equivalence(Kind):
    """The true difference is smaller than the margin, in both directions."""

    name = "equivalence"
    form = f"A = B within MARGIN {TAIL_FORM}"
    hint = re.compile(" = ")
    pattern = re.compile(rf"(?P<one>.+?) = (?P<other>.+?) within (?P<margin>\S+){TAIL}")

    def read(self, finder: Finder, found: re.Match) -> Claim:
        """details: factor, the values "one" and "other", margin, names of the two systems."""
        metric, on = finder.check_metric(found["metric"]), finder.evaluation_set(found["on"])
        margin = _margin(finder, found["margin"])
        factor, *values = finder.compared(found["one"], found["other"])
        at = finder.conditions(found["at"], on, (factor,))
        wanted = [{factor: value} | at for value in values]
        finder.check_pair(*wanted, factor, on)
        details = {"factor": factor, "one": values[0], "other": values[1], "at": at, "margin": margin}
        details["names"] = [label(one) for one in wanted]
        return Claim(finder.text, self.name, metric, on, finder.systems(on, wanted), details)

    def judge(self, claim: dict, measured: Measured) -> Outcome:
        """p of the two one-sided tests if the difference is inside of the margin.

        Outside of it: p of the null hypothesis that the true difference is within the margin, doubled for two sides.
        """
        (one, other), margin = claim["names"], claim["margin"]
        found = measured.estimate(lambda scores: scores[one] - scores[other])
        inside = abs(found.value) < margin
        p = found.within(margin) if inside else _p_outside(found, margin)
        return Outcome(
            said=f"the difference between {claim['one']} and {claim['other']} is {found.value:+.2f} "
            f"{NAMES[claim['metric']]}, the margin is {margin:g}",
            test=f"two one-sided tests: {found.test}",
            estimate=found.value,
            interval=found.interval(),
            p=p,
            favours=SUPPORTED if inside else REFUTED,
            detectable=partial(Estimate.smallest_margin, found),
            finds="equivalence within a margin of {} or more, if there is no difference",
            sample=found.sample,
        )


def _p_outside(found: Estimate, margin: float) -> float | None:
    if found.error == 0:
        return None
    return min(1.0, 2 * min(found.above(margin), found.below(-margin)))


def _margin(finder: Finder, text: str) -> float:
    try:
        margin = float(text)
    except ValueError:
        margin = math.nan
    if not 0 < margin < math.inf:
        raise KDError(f"{finder.quoted}: the margin must be a number above 0, found {text!r}; no test can show that "
                      "two scores are equal without a margin")  # fmt: skip
    return margin

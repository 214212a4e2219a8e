"""`seq > word at noise 30 by bleu`: one value of a factor scores better than another.

Tested by `fairseq-kd compare`: a paired t-test over seeds, or approximate randomisation over segments.
"""

import re
from functools import partial

import numpy as np

from fairseq_kd.evaluation.estimates import Estimate, over_seeds
from fairseq_kd.study.claims.base import (
    NAMES,
    REFUTED,
    SUPPORTED,
    TAIL,
    TAIL_FORM,
    Claim,
    Kind,
    Outcome,
    better,
    register,
)
from fairseq_kd.study.claims.finder import Finder

T_TESTS = {"paired_t": "paired t-test", "welch_t": "Welch's t-test"}


@register
class Comparison(Kind):
    """One value of a factor scores better than another, in cells that agree in the factors after `at`."""

    name = "comparison"
    form = f"A > B {TAIL_FORM}"
    hint = re.compile(" > ")
    pattern = re.compile(rf"(?P<better>.+?) > (?P<worse>.+?){TAIL}")

    def read(self, finder: Finder, found: re.Match) -> Claim:
        """details: as in the plans of version 0.1.0; the cells of the two sides have seeds in the same order."""
        metric, on = finder.check_metric(found["metric"]), finder.evaluation_set(found["on"])
        factor, best_value, worst_value = finder.compared(found["better"], found["worse"])
        values = worst_value, best_value
        at = finder.conditions(found["at"], on, (factor,))
        wanted = [{factor: value} | at for value in values]
        finder.check_pair(*wanted, factor, on)
        systems = dict(zip([f"{factor}={value}" for value in values], finder.systems(on, wanted).values(), strict=True))
        worse, best = ([cell for cell, _ in runs] for runs in systems.values())
        details = {"factor": factor, "better": best_value, "worse": worst_value, "at": at}
        details |= {"cells_better": best, "cells_worse": worse}
        return Claim(finder.text, self.name, metric, on, systems, details, options=())

    def test(self, claim: dict, content: dict) -> Outcome:
        """content: a comparison. Its baseline is the side that is claimed to be worse."""
        other = content["systems"][1]
        p, test = _decided(other, content)
        gain = better(claim["metric"]) * other["difference"]
        found = _estimate(content)
        return Outcome(
            said=f"the difference between {claim['better']} and {claim['worse']} is {other['difference']:+.2f} "
            f"{NAMES[claim['metric']]}",
            test=test,
            estimate=other["difference"],
            interval=_interval(other, found),
            p=p,
            favours=SUPPORTED if gain > 0 else REFUTED,
            detectable=None if found is None else partial(Estimate.detectable, found),
            sample=found.sample if found else "",
        )


def _decided(other: dict, content: dict) -> tuple[float | None, str]:
    """(p without a correction for other claims, the test in words)."""
    if (test := other["decided_by"]) in T_TESTS:
        return other[test]["p_holm"], f"{T_TESTS[test]} over {len(other['scores'])} seeds"
    p = other["approximate_randomisation"]["p_holm"][0]
    return p, f"approximate randomisation over {content['segments']:,} segments"


def _estimate(content: dict) -> Estimate | None:
    """The difference with its scatter; None for a single run in a file without the scatter of the bootstrap."""
    baseline, other = content["systems"]
    ours, theirs = np.array(other["scores"]), np.array(baseline["scores"])
    if other["decided_by"] == "paired_t":
        return over_seeds(ours - theirs)
    if other["decided_by"] == "welch_t":
        variances = [side.var(ddof=1) / len(side) for side in (ours, theirs)]
        degrees, size = other["welch_t"]["degrees_of_freedom"], len(ours)
        return Estimate(other["difference"], sum(variances) ** 0.5 if degrees else 0.0, degrees or 1, size)
    errors = other.get("scatter", {}).get("error")
    return Estimate(other["difference"], errors[0], None, content["segments"]) if errors else None


def _interval(other: dict, found: Estimate | None) -> tuple | None:
    if found is None:
        return None
    return found.interval() if found.degrees is not None else tuple(other["scatter"]["interval"][0])

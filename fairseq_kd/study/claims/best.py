"""`word+seq is best of method at arch kd_student_9m by bleu`: a value is better than every other value of its factor.

An intersection-union test: supported if it is better than each of the others by a test of its own, without a correction
for their number (Berger 1982). Refuted if one of the others is better, by Bonferroni's correction for their number.
"""

import re
from functools import partial

from fairseq_kd.core.errors import KDError
from fairseq_kd.evaluation.estimates import Estimate
from fairseq_kd.evaluation.measured import Measured
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
from fairseq_kd.study.claims.finder import Finder, label


@register
class Best(Kind):
    """Better than every other value of a factor; with `its`: in the cells with each value of another factor."""

    name = "best"
    form = f"A is best of FACTOR {TAIL_FORM}, or A is best of its FACTOR {TAIL_FORM}"
    hint = re.compile(" is best of ")
    pattern = re.compile(rf"(?P<value>.+?) is best of (?P<its>its )?(?P<factor>\S+){TAIL}")

    def read(self, finder: Finder, found: re.Match) -> Claim:
        """details: pairs of names of systems, the claimed best one first."""
        metric, on = finder.check_metric(found["metric"]), finder.evaluation_set(found["on"])
        factor, value, groups = self._groups(finder, found, on)
        rivals = [other for other in finder.factors()[factor].values() if other != value]
        pairs = []
        for group in groups:
            having = [one for one in rivals if finder.agreeing({factor: one} | group)]
            pairs += [({factor: value} | group, {factor: one} | group) for one in having]
        if not pairs:
            raise KDError(f"{finder.quoted}: {factor} has one value for these cells, so it is not the best of several; "
                          "add values to the factor, or name other cells")  # fmt: skip
        systems = finder.systems(on, *pairs)
        details = {"factor": factor, "value": value, "pairs": [[label(one) for one in pair] for pair in pairs]}
        return Claim(finder.text, self.name, metric, on, systems, details)

    def judge(self, claim: dict, measured: Measured) -> Outcome:
        """The estimate and the interval are those of the difference from the closest rival."""
        sign, pairs = better(claim["metric"]), claim["pairs"]
        found = [measured.estimate(lambda scores, a=a, b=b: sign * (scores[a] - scores[b])) for a, b in pairs]
        closest = min(range(len(pairs)), key=lambda number: found[number].value)
        is_best = found[closest].value > 0
        widest = max(found, key=lambda one: one.error)
        count = f"each of {len(pairs)} others" if len(pairs) > 1 else "the other"
        return Outcome(
            said=f"the closest rival of {pairs[closest][0]} is {pairs[closest][1]}, the difference is "
            f"{found[closest].value:+.2f} {NAMES[claim['metric']]}" + (" in quality" if sign < 0 else ""),
            test=f"{found[0].test} against {count}",
            estimate=found[closest].value,
            interval=found[closest].interval(),
            p=_p_best(found) if is_best else _p_not_best(found),
            favours=SUPPORTED if is_best else REFUTED,
            detectable=partial(Estimate.detectable, widest),
            finds="a difference of {} or more from each rival",
            sample=found[0].sample,
        )

    def _groups(self, finder: Finder, found: re.Match, on: str) -> tuple:
        """(factor, its best value, the values of other factors of each group of cells that are compared)."""
        named = found["factor"]
        if not found["its"]:
            value = finder.value_of(named, found["value"], on)
            return named, value, [finder.conditions(found["at"], on, (named,))]
        factor, value, _ = finder.compared(found["value"], found["value"])
        if factor == named:
            raise KDError(f"{finder.quoted}, compares values of {factor} and varies {factor}, so one of its values "
                          "would be lost; leave out `its`, or name another factor")  # fmt: skip
        at = finder.conditions(found["at"], on, (factor, named))
        levels = [finder.value_of(named, word, on) for word in finder.words_of(named, on)]
        return factor, value, [at | {named: level} for level in levels if finder.agreeing(at | {named: level})]


def _p_best(found: list[Estimate]) -> float | None:
    """The largest p of the tests against the others."""
    p_values = [one.beside() for one in found]
    return None if None in p_values else max(p_values)


def _p_not_best(found: list[Estimate]) -> float | None:
    """The smallest p of the others that are better, times the number of others."""
    p_values = [one.beside() for one in found if one.value < 0 and one.error > 0]
    return min(1.0, len(found) * min(p_values)) if p_values else None

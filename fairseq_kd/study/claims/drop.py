"""`drop(seq, noise 0 -> 30) < drop(word, noise 0 -> 30) by bleu`: one difference is smaller than another.

A drop is the quality that is lost between two values of a factor; a relative drop is the same in percent of the first
score. `difference(A, B)` says how much better A is than B.
"""

import re
from functools import partial

import numpy as np

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

SIDE = r"(?:(?:relative )?drop|difference)\([^()]*\)"
AT = r"(?: at (?P<at>.+))?"
DROP = re.compile(
    rf"(?P<relative>relative )?drop\((?P<value>[^,]+), (?P<factor>\S+) (?P<first>.+?) -> (?P<last>.+?){AT}\)"
)
DIFFERENCE = re.compile(rf"difference\((?P<first>[^,]+), (?P<last>.+?){AT}\)")
FORMS = "[relative] drop(A, FACTOR VALUE -> VALUE [at ...]) or difference(A, B [at ...])"


@register
class Drop(Kind):
    """Two differences, or a difference and a number, are compared."""

    name = "drop"
    form = f"SIDE < SIDE {TAIL_FORM}, where SIDE is {FORMS}, and the second may be a number"
    hint = re.compile(r"(^|[<>] )((relative )?drop|difference)\(")
    pattern = re.compile(rf"(?P<left>{SIDE}) (?P<sign>[<>]) (?P<right>{SIDE}|-?[\d.]+){TAIL}")

    def read(self, finder: Finder, found: re.Match) -> Claim:
        """details: the two sides, "first" and "last" being names of systems, and the sign."""
        metric, on = finder.check_metric(found["metric"]), finder.evaluation_set(found["on"])
        sides = [self._side(finder, found[side], found["at"], on) for side in ("left", "right")]
        if len({side["relative"] for side in sides if side["number"] is None}) > 1:
            raise KDError(f"{finder.quoted}, compares percent with {NAMES[metric]}, which have no common unit; write "
                          "`relative drop` on both sides, or on none")  # fmt: skip
        systems = finder.systems(on, *[side.pop("wanted") for side in sides])
        cells = [(systems.get(side["first"]), systems.get(side["last"])) for side in sides]
        if cells[0] == cells[1]:
            raise KDError(f"{finder.quoted}, compares {found['left']} with itself; name other cells on one side")
        details = {"sides": sides, "sign": found["sign"]}
        return Claim(finder.text, self.name, metric, on, systems, details)

    def judge(self, claim: dict, measured: Measured) -> Outcome:
        """The difference of the two sides, per seed or resample."""
        sides, metric = claim["sides"], claim["metric"]
        unit = "percentage points" if sides[0]["relative"] else NAMES[metric]
        if any(np.any(measured.scores[side["first"]] == 0) for side in sides if side["relative"]):
            return Outcome("a score is 0, so a relative drop is not defined", "no test")
        of = partial(_value, sign=better(metric))
        found = measured.estimate(lambda scores: of(scores, sides[0]) - of(scores, sides[1]))
        values = [side["number"] if side["number"] is not None else measured.estimate(partial(of, side=side)).value
                  for side in sides]  # fmt: skip
        words = [f"{side['text']} is {value:.2f}" for side, value in zip(sides, values, strict=True)
                 if side["number"] is None]  # fmt: skip
        holds = (found.value < 0) == (claim["sign"] == "<")
        versus = "difference" if sides[1]["number"] is None else f"difference from {sides[1]['number']:g}"
        return Outcome(
            said=f"{' and '.join(words)}, the {versus} is {found.value:+.2f} {unit}",
            test=found.test,
            estimate=found.value,
            interval=found.interval(),
            p=found.beside(),
            favours=SUPPORTED if holds else REFUTED,
            detectable=partial(Estimate.detectable, found),
            sample=found.sample,
        )

    def _side(self, finder: Finder, text: str, at: str | None, on: str) -> dict:
        side = {"text": text, "relative": False, "number": None, "first": None, "last": None, "wanted": []}
        if drop := DROP.fullmatch(text):
            factor, wanted = drop["factor"], _dropped(finder, drop, at, on)
            side["relative"] = drop["relative"] is not None
        elif difference := DIFFERENCE.fullmatch(text):
            factor, *values = finder.compared(difference["first"], difference["last"])
            conditions = finder.conditions(_joined(difference["at"], at), on, (factor,))
            wanted = [{factor: value} | conditions for value in values]
        else:
            return side | {"number": _number(finder, text)}
        finder.check_pair(*wanted, factor, on)
        return side | {"wanted": wanted, "first": label(wanted[0]), "last": label(wanted[1])}


def _dropped(finder: Finder, drop: re.Match, at: str | None, on: str) -> list[dict]:
    """The values of factors of the first and the last system of a drop."""
    own, value, _ = finder.compared(drop["value"], drop["value"])
    varied = drop["factor"]
    values = [finder.value_of(varied, drop[which], on) for which in ("first", "last")]
    conditions = finder.conditions(_joined(drop["at"], at), on, (own, varied))
    if own == varied:
        raise KDError(f"{finder.quoted}: {varied} is both the factor of {drop['value']} and the factor that changes, "
                      "so one of its values would be lost; name a value of another factor")  # fmt: skip
    return [{own: value, varied: one} | conditions for one in values]


def _joined(*conditions: str | None) -> str:
    return ", ".join(filter(None, conditions))


def _number(finder: Finder, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise KDError(f"{finder.quoted}, is not of the form {Drop.form}: {text!r} is neither") from None


def _value(scores: dict, side: dict, sign: int):
    """The value of a side, one per run or resample."""
    if side["number"] is not None:
        return side["number"]
    first = scores[side["first"]]
    lost = sign * (first - scores[side["last"]])
    if not side["relative"]:
        return lost
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample may have the score 0
        return np.nan_to_num(100 * lost / first)

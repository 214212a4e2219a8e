"""The colours of a report: a method has one colour in all plots, and the values of other factors have other colours.

A plot with several methods shows the values of the other factors by the style of the lines and the filling of the
markers. A plot with one method shows them by the colours of VALUES. If there are more methods than COLOURS, the last
methods have the colours of VALUES.
"""

from fairseq_kd.study.factors import METHODS
from fairseq_kd.study.report.draw import COLOURS, MARKERS, Style
from fairseq_kd.study.report.rows import Study

VALUES = ("#7F5FD0", "#A0622D", "#76808C", "#6E7F00", "#B03A9E", "#008C8C")  # none of COLOURS
VALUE_MARKERS = ("h", "X", "p", "<", ">", "d")
FIRST = 4  # methods that have the same colour in all reports


def styles_of(study: Study, several: list[dict]) -> list[Style]:
    """One style for each series of a plot. several: the values of the factors that the series stand for."""
    methods = list(dict.fromkeys([*METHODS[:FIRST], *study.factors.get("method", [])]))
    others = [_others(factors) for factors in several]
    found = [factors.get("method") for factors in several]
    if len(set(found)) > 1 or (None not in found and len(set(others)) == 1):
        order = list(dict.fromkeys(others))
        return [
            _method_style(methods.index(method), order.index(other))
            for method, other in zip(found, others, strict=True)
        ]
    known = list(dict.fromkeys([*(_others(row.factors) for row in study.rows), *others]))
    return [_value_style(known.index(other)) for other in others]


def _others(factors: dict) -> tuple:
    return tuple((name, value) for name, value in factors.items() if name != "method")


def _method_style(method: int, variant: int) -> Style:
    colours, markers = (*COLOURS, *VALUES), (*MARKERS, *VALUE_MARKERS)
    return Style(colours[method % len(colours)], markers[method % len(markers)], variant)


def _value_style(number: int) -> Style:
    at = number % len(VALUES)
    return Style(VALUES[at], VALUE_MARKERS[at], number // len(VALUES))

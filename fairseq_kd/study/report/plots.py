"""Plots of BLEU against the factors of a study: lines for numbers, dots for words, lines over the number of parameters.

Rows of a study become series: points with one colour. A teacher is a series too, or a reference line.
"""

import re
from dataclasses import dataclass

from fairseq_kd.study.report.draw import COLOURS, HEIGHT, Point, Series, draw_dots, draw_lines, picture
from fairseq_kd.study.report.rows import TEACHER, Row, Study, labels
from fairseq_kd.study.report.styles import styles_of
from fairseq_kd.study.report.words import axis_words

METRIC = "bleu"
MOST_LEVELS = 4


def point_of(x, row: Row, on: str) -> Point | None:
    """The scores of a row on one evaluation set; None without scores. x: None for a row without a place on the axis."""
    scores = row.scores(METRIC, on)
    return Point(x, scores, row.found(on)[0][METRIC].get("ci")) if scores else None


def series_of(study: Study, names: list, pairs: list) -> list[Series]:
    """Points as series, one per combination of the factors that are not in `names`.

    Where these would be too many, there is one series per method. pairs: [(row, its point)]. Points of a series with
    the same x become one point, whose values are their means.
    """
    others = [name for name in study.factors if name not in names]
    groups = _grouped(pairs, others)
    if len(groups) > len(COLOURS):
        others = [name for name in others if name == "method"] or others[:1]
        groups = _grouped(pairs, others)
    keys = [dict(key) for key in groups]
    names, styles = labels(keys) if keys else [], styles_of(study, keys)
    return [
        Series(name or METRIC.upper(), _pooled(points), style)
        for name, style, points in zip(names, styles, groups.values(), strict=True)
    ]


def placed(series: list[Series]) -> tuple[list[Series], list[Series]]:
    """(series of the points with an x, series of the points without one, which become reference lines)."""
    parts = []
    for wanted in (True, False):
        chosen = [[point for point in one.points if (point.x is not None) == wanted] for one in series]
        parts.append([Series(s.label, p, s.style) for s, p in zip(series, chosen, strict=True) if p])
    return parts[0], parts[1]


def teacher_series(study: Study, on: str, x_of) -> list[Series]:
    """The teachers as series: one point without x for a single teacher; one line where each x has one teacher.

    Otherwise one point without x per teacher, or nothing when there are too many. x_of: row -> its x, or None.
    """
    known = [(row, users) for row, users in zip(study.teachers, study.users, strict=True) if point_of(None, row, on)]
    if len(known) == 1:
        return [Series(TEACHER, [point_of(None, known[0][0], on)])]
    at = {}
    for row, users in known:
        for x in dict.fromkeys(x_of(study.rows[number]) for number in users):
            at.setdefault(x, []).append(row)
    at.pop(None, None)
    if len(at) > 1 and all(len(rows) == 1 for rows in at.values()):
        return [Series(TEACHER, [point_of(x, rows[0], on) for x, rows in at.items()])]
    levels = [Series(row.label, [point_of(None, row, on)]) for row, _ in known]
    return levels if len(levels) <= MOST_LEVELS else []


def _grouped(pairs: list, others: list) -> dict:
    groups = {}
    for row, point in pairs:
        key = tuple((name, row.factors[name]) for name in others if name in row.factors)
        groups.setdefault(key, []).append(point)
    return groups


def _pooled(points: list[Point]) -> list[Point]:
    found = []
    for x in dict.fromkeys(point.x for point in points):
        here = [point for point in points if point.x == x]
        found.append(here[0] if len(here) == 1 else Point(x, [point.mean for point in here], pooled=True))
    return found


SIZE = "parameters"
MOST_TICKS = 8
SPREAD = "Bands and bars: ± one standard deviation over seeds; with one seed half of the bootstrap's 95 %, if measured."
POOLED = "A small dot: one combination of the other factors, mean over seeds. A large dot: the mean of the small ones."


@dataclass(frozen=True)
class Figure:
    """A plot. name: the name of its file without .svg."""

    name: str
    title: str
    caption: str
    svg: str


def factor_figures(study: Study) -> list[Figure]:
    """One figure per factor and evaluation set with results. Factors that change the model size share one figure."""
    sizes = [name for name in study.factors if _changes_size(study, name)]
    axes = [(SIZE, sizes)] if sizes else []
    axes += [(name, [name]) for name in study.factors if name not in sizes and name != "method"]
    axes = axes or [("method", ["method"])]  # in other figures the colours show the methods
    figures = [_figure(study, title, names, on) for on in study.sets for title, names in axes]
    return [figure for figure in figures if figure is not None]


def slug(text: str) -> str:
    """For names of files and ids."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def is_number(values: list) -> bool:
    """Whether the values of a factor are numbers."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _changes_size(study: Study, name: str) -> bool:
    """Whether two rows that differ in this factor alone have other numbers of parameters."""
    seen = {}
    for row in study.rows:
        if name in row.factors and row.parameters() is not None:
            rest = tuple((other, value) for other, value in row.factors.items() if other != name)
            seen.setdefault(rest, set()).add(row.parameters())
    return any(len(sizes) > 1 for sizes in seen.values())


def _figure(study: Study, title: str, names: list, on: str) -> Figure | None:
    def x_of(row):
        return row.parameters() if title == SIZE else row.factors.get(title)

    pairs = [(row, point_of(x_of(row), row, on)) for row in study.rows]
    series = series_of(study, names, [(row, point) for row, point in pairs if point is not None])
    series, levels = placed(series)
    if not series:
        return None
    teachers, teacher_levels = placed(teacher_series(study, on, x_of))
    pooled = any(point.pooled for one in series for point in one.points)
    numeric = title == SIZE or is_number(study.factors[title])
    values = [] if numeric else study.factors[title]

    def paint(axes):
        if numeric:
            draw_lines(axes, series + teachers, levels + teacher_levels)
            axes.set(xlabel=axis_words(title), ylabel=f"BLEU on {on}")
            _name_ticks(axes, sorted({point.x for one in series for point in one.points}), title == SIZE)
        else:
            draw_dots(axes, series + teachers, levels + teacher_levels, values)
            axes.set(xlabel=f"BLEU on {on}")

    height = HEIGHT if numeric else 1.8 + len(values) * max(0.35, 0.2 * len(series))
    name = slug(f"bleu-{on}-by-{title}")
    about = f"BLEU on {on} against {title}" + (f" ({', '.join(names)})" if title == SIZE else "")
    return Figure(name, about, POOLED if pooled else SPREAD, picture(name, paint, height))


def _name_ticks(axes, xs: list, sizes: bool) -> None:
    """Put a tick at each value, unless there are many; sizes get a logarithmic axis."""
    if sizes:
        axes.set_xscale("log")
    if len(xs) <= MOST_TICKS:
        axes.set_xticks(xs, [f"{x / 1e6:.3g} M" if sizes else f"{x:g}" for x in xs])
        axes.minorticks_off()

"""Plots of BLEU over what a study varies: lines over numbers, dots for words, lines over the number of parameters."""

import re
from dataclasses import dataclass

from fairseq_kd.study.report.draw import HEIGHT, draw_dots, draw_lines, picture
from fairseq_kd.study.report.rows import Study
from fairseq_kd.study.report.series import placed, point_of, series_of, teacher_series

SIZE = "parameters"
MOST_TICKS = 8
SPREAD = "Bands and bars: ± one standard deviation over seeds; with one seed half of the bootstrap's 95 %, if measured."
POOLED = "A small dot is one combination of the other factors, the mean of its seeds; large dots are means of these."


@dataclass(frozen=True)
class Figure:
    """A plot. name: of its file, without .svg."""

    name: str
    title: str
    caption: str
    svg: str


def factor_figures(study: Study) -> list[Figure]:
    """One for each factor and evaluation set with results; the factors that change the size share one of them."""
    sizes = [name for name in study.factors if _changes_size(study, name)]
    axes = [(SIZE, sizes)] if sizes else []
    axes += [(name, [name]) for name in study.factors if name not in sizes and name != "method"]
    axes = axes or [("method", ["method"])]  # elsewhere methods are the colours
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
            axes.set(xlabel=title, ylabel=f"BLEU on {on}")
            _name_ticks(axes, sorted({point.x for one in series for point in one.points}), title == SIZE)
        else:
            draw_dots(axes, series + teachers, levels + teacher_levels, values)
            axes.set(xlabel=f"BLEU on {on}")

    height = HEIGHT if numeric else 1.8 + len(values) * max(0.35, 0.2 * len(series))
    name = slug(f"bleu-{on}-by-{title}")
    about = f"BLEU on {on} against {title}" + (f" ({', '.join(names)})" if title == SIZE else "")
    return Figure(name, about, POOLED if pooled else SPREAD, picture(name, paint, height))


def _name_ticks(axes, xs: list, sizes: bool) -> None:
    """The values themselves as ticks, unless they are many; a logarithmic axis for sizes."""
    if sizes:
        axes.set_xscale("log")
    if len(xs) <= MOST_TICKS:
        axes.set_xticks(xs, [f"{x / 1e6:.3g} M" if sizes else f"{x:g}" for x in xs])
        axes.minorticks_off()

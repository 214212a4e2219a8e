"""Plots as SVG, drawn with matplotlib. The same input gives the same bytes.

Text and axes have the colour of the page's text. The colours of methods are safe for colour-blind readers (Okabe & Ito
2008); orange and sky blue are darker than in the source. All colours have a contrast of 3 to 1 on a white page and on a
dark one. Series also differ in their markers or in the style of their lines.
"""

import io
import re
import textwrap
from dataclasses import dataclass
from statistics import mean, stdev

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B87F00", "#3A93C8")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", ":", "-.", (0, (6, 2, 1, 2, 1, 2)), (0, (1, 3)))
FILLS = ("full", "none", "left", "bottom", "right", "top")
INK, FAINT = "#010203", "#040506"  # `_svg` replaces them by the colour of the page's text
LONG_LABEL, WIDEST_LABEL = 20, 40  # characters; from the first on one legend entry per line, from the second on folded
WIDTH, HEIGHT = 4.7, 3.7  # inches of 72 px: about the width of a phone, so that text is readable there
SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fairseq_kd",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


@dataclass(frozen=True)
class Point:
    """One point of a plot.

    values: one per seed, or one per row where rows are pooled. ci: half of the 95 % interval, if measured.
    """

    x: object
    values: list
    ci: float | None = None
    pooled: bool = False

    @property
    def mean(self) -> float:
        """The mean of the values."""
        return mean(self.values)

    @property
    def spread(self) -> float:
        """Standard deviation over seeds, else `ci`, else 0."""
        if self.pooled:
            return 0.0
        return stdev(self.values) if len(self.values) > 1 else self.ci or 0.0


@dataclass(frozen=True)
class Style:
    """The look of a series. variant: number of the style of its line and of the filling of its markers."""

    colour: str
    marker: str
    variant: int = 0


@dataclass(frozen=True)
class Series:
    """Points with one style: a number for the colour and marker of this number, None for a reference."""

    label: str
    points: list
    style: Style | int | None = None

    @property
    def colour(self) -> str:
        """The colour of the series."""
        if isinstance(self.style, int):
            return COLOURS[self.style % len(COLOURS)]
        return INK if self.style is None else self.style.colour

    def look(self) -> dict:
        """Colour, marker and line style, as arguments of matplotlib."""
        if self.style is None:
            return {"color": INK, "marker": "*", "linestyle": "--", "linewidth": 1.2}
        if isinstance(self.style, int):
            return {"color": self.colour, "marker": MARKERS[self.style % len(MARKERS)], "linestyle": "-"}
        variant = self.style.variant % len(DASHES)
        look = {"color": self.colour, "marker": self.style.marker, "linestyle": DASHES[variant]}
        return look | {"fillstyle": FILLS[variant], "markerfacecoloralt": "none"}


def picture(name: str, paint, height: float = HEIGHT) -> str:
    """SVG of what `paint(axes)` draws. name: prefix of all ids in the SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots()
        paint(axes)
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            labels = [textwrap.fill(label, WIDEST_LABEL) for label in labels]
            columns = 2 if max(map(len, labels)) < LONG_LABEL else 1
            figure.legend(handles, labels, loc="outside lower center", ncols=columns)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _svg(text.getvalue(), name)


def _svg(text: str, name: str) -> str:
    """Make an SVG fit for a page with other SVGs: no prolog, ids with the prefix `name`, colours of the page."""
    text = text[text.index("<svg") :]
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{name}-", text)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = text.replace(FAINT, "currentColor; stroke-opacity: 0.2").replace(INK, "currentColor")
    return re.sub(r' width="[\d.]+pt" height="[\d.]+pt"| height="[\d.]+pt"| width="[\d.]+pt"', "", text).strip()


def renamed(svg: str, old: str, new: str) -> str:
    """A picture with another prefix of its ids."""
    return re.sub(rf'(\bid="|url\(#|href="#){re.escape(old)}-', rf"\1{new}-", svg)


def draw_lines(axes, series: list[Series], levels: list[Series]) -> None:
    """Draw values over numbers, with a band of ± spread around each line.

    levels: series of one point, as horizontal lines.
    """
    for one in series:
        points = sorted(one.points, key=lambda point: point.x)
        xs, means = [point.x for point in points], [point.mean for point in points]
        look = one.look()
        axes.plot(xs, means, label=one.label, markersize=6, clip_on=False, **look)
        low, high = ([p.mean + sign * p.spread for p in points] for sign in (-1, 1))
        if any(point.spread for point in points):
            axes.fill_between(xs, low, high, color=look["color"], alpha=0.15, linewidth=0)
        for point in points:
            if len(point.values) > 1:
                axes.plot([point.x] * len(point.values), point.values, ".", color=look["color"], alpha=0.45, zorder=1)
    for number, one in enumerate(levels):
        axes.axhline(one.points[0].mean, label=one.label, **_level(one, number))


def draw_dots(axes, series: list[Series], levels: list[Series], values: list) -> None:
    """Draw one line of dots per value, with one dot and its interval per series. levels are vertical lines."""
    step = 0.7 / max(1, len(series))
    for number, one in enumerate(series):
        look = one.look() | {"linestyle": ""}
        for index, point in enumerate(one.points):
            y = values.index(point.x) + (number - (len(series) - 1) / 2) * step
            axes.plot(point.values, [y] * len(point.values), ".", color=look["color"], alpha=0.45, zorder=1)
            label = one.label if index == 0 else None
            axes.errorbar([point.mean], [y], xerr=[point.spread], label=label, capsize=3, markersize=7, **look)
    for number, one in enumerate(levels):
        axes.axvline(one.points[0].mean, label=one.label, **_level(one, number))
    axes.set_yticks(range(len(values)), [str(value) for value in values])
    axes.set_ylim(len(values) - 0.5, -0.5)


def _level(one: Series, number: int) -> dict:
    return {"color": one.colour, "linestyle": ("--", ":", "-.", (0, (1, 3)))[number % 4], "linewidth": 1.3}

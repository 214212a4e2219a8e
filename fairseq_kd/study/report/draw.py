"""Points and series of a plot, drawn as lines or dots; `core.picture` makes the picture.

Series differ in their colours, and also in their markers or in the style of their lines.
"""

from dataclasses import dataclass
from statistics import mean, stdev

# the other modules of the report take all of it from here
from fairseq_kd.core.picture import COLOURS, HEIGHT, INK, picture, renamed  # noqa: F401

MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", ":", "-.", (0, (6, 2, 1, 2, 1, 2)), (0, (1, 3)))
FILLS = ("full", "none", "left", "bottom", "right", "top")


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

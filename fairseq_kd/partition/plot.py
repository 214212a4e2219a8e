"""The differences between parts as a picture: sizes, lengths, divergences."""

import importlib.util

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.picture import COLOURS, INK, picture, standing_alone

PANEL = 2.4  # inches
MOST_NUMBERS = 8  # with more parts, the divergences have colours but no numbers


def check_packages() -> None:
    """Raises KDError when matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise KDError(
            "the plot of the parts needs matplotlib, which is not installed: pip install 'fairseq_kd[collaboration]', "
            "or give --no-plot"
        )


def draw(found: dict) -> str:
    """SVG: sentences per part, mean lengths per part, Jensen-Shannon divergence of source words per pair of parts.

    found: of `differences.differences`. The same figures give the same bytes.
    """
    numbers = [str(row["part"]) for row in found["parts"]]
    sides = list(found["sides"])

    def paint(axes):
        sizes, lengths, divergences = axes
        sizes.bar(range(len(numbers)), [row["sentences"] for row in found["parts"]], color=COLOURS[2])
        sizes.set(ylabel="sentences")
        for bars in (sizes, lengths):
            bars.set_axisbelow(True)
            bars.grid(False, axis="x")
            bars.set_xticks(range(len(numbers)), numbers)
        for number, side in enumerate(sides):
            places = [place + (number - (len(sides) - 1) / 2) * 0.4 for place in range(len(numbers))]
            values = [row[side]["mean_length"] for row in found["parts"]]
            lengths.bar(places, values, 0.38, label=side, color=COLOURS[number])
        lengths.set(ylabel="mean length")
        lengths.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
        _paint_divergences(divergences, found["sides"]["source"]["jsd"], numbers, found["unit"])

    return standing_alone(picture("differences", paint, height=3 * PANEL, panels=3))


def _paint_divergences(axes, matrix: list, numbers: list[str], unit: str) -> None:
    values = [[0.0 if value is None else value for value in row] for row in matrix]
    axes.grid(False)
    mesh = axes.pcolormesh(values, cmap="Blues", vmin=0, vmax=max(map(max, values)) or 1)
    middles = [at + 0.5 for at in range(len(numbers))]
    axes.set_xticks(middles, numbers)
    axes.set_yticks(middles, numbers)
    axes.invert_yaxis()
    axes.set(xlabel="part", ylabel="part")
    if len(numbers) <= MOST_NUMBERS:
        for row, line in enumerate(values):
            for column, value in enumerate(line):
                dark = value > 0.65 * mesh.norm.vmax
                colour = "white" if dark else "black"
                axes.text(column + 0.5, row + 0.5, f"{value:.3f}", ha="center", va="center", color=colour)
    bar = axes.figure.colorbar(mesh, ax=axes)
    bar.set_label(f"JSD of source {unit}, bits", color=INK)
    bar.solids.set_rasterized(False)

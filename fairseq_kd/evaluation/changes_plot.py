"""A plot of the entry "changes": the shares gained, kept and lost with their intervals."""

import importlib.util
import textwrap
from pathlib import Path

import numpy as np

from fairseq_kd.artifacts.writing import ensure_writable_file, write_text
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.picture import COLOURS, picture, standing_alone
from fairseq_kd.evaluation.changes import CLASSES

LOOKS = {"gained": (COLOURS[2], "^"), "kept": ("#76808C", "o"), "lost": (COLOURS[1], "v")}  # the markers differ too
EMPTY_HEIGHT, ROW_HEIGHT = 1.7, 0.5  # inches
APART = 0.22  # two shares of a group, in heights of a group
WIDEST_LABEL = 24  # characters of a line


def check_plot(path) -> None:
    """Raises KDError when the plot could not be written. Call it before the evaluation, not after it."""
    if Path(path).suffix != ".svg":
        raise KDError(f"--changes-plot {path}: the name must end with .svg")
    if importlib.util.find_spec("matplotlib") is None:
        raise KDError("--changes-plot needs matplotlib: pip install 'fairseq_kd[report]'")
    ensure_writable_file(path)


def groups_of(entries: list[dict]) -> list[tuple[str, dict]]:
    """[(label, group)] of entries "changes": all segments of each, then its parts."""
    found = []
    for entry in entries:
        found.append((entry.get("name", "all segments"), entry["overall"]))
        found += [(f"part {part['part']}", part) for part in entry.get("parts", [])]
    return found


def paint_changes(axes, groups: list[tuple[str, dict]]) -> None:
    """Draw one line per group, with the three shares in percent and their 95 % intervals. axes: of matplotlib."""
    for number, name in enumerate(CLASSES):
        colour, marker = LOOKS[name]
        found = [group[name] for _, group in groups]
        shares = 100 * np.array([one["share"] for one in found])
        ends = 100 * np.array([one["interval"] or [one["share"]] * 2 for one in found])  # (groups, 2)
        heights = np.arange(len(groups)) + (number - 1) * APART
        look = {"color": colour, "marker": marker, "linestyle": "", "capsize": 3}
        axes.errorbar(shares, heights, xerr=np.abs(ends.T - shares), label=name, **look)
    axes.set_yticks(range(len(groups)), [textwrap.fill(label, WIDEST_LABEL) for label, _ in groups])
    axes.set(xlim=(-2, 102), xlabel="share of the segments, %")
    axes.set_ylim(len(groups) - 0.5, -0.5)


def draw_changes(entries: list[dict], path) -> None:
    """Write the plot of entries "changes" as the SVG file `path`."""
    groups = groups_of(entries)

    def paint(axes):
        paint_changes(axes, groups)
        axes.set_title(f"by more than {entries[0]['threshold']:g} points of sentence chrF", size="medium")

    write_text(path, standing_alone(picture("changes", paint, EMPTY_HEIGHT + ROW_HEIGHT * len(groups))))

"""A plot of the entry "changes": the shares gained, kept and lost with their intervals. The same input gives the same
bytes.
"""

import importlib.util
from pathlib import Path

from fairseq_kd.artifacts.writing import ensure_writable_folder, file_in_progress
from fairseq_kd.core.errors import KDError
from fairseq_kd.evaluation.changes import CLASSES

# Okabe & Ito 2008, safe for colour-blind readers; the markers differ too
LOOKS = {"gained": ("#009E73", "^"), "kept": ("#76808C", "o"), "lost": ("#D55E00", "v")}
WIDTH, EMPTY_HEIGHT, ROW_HEIGHT = 5.5, 1.4, 0.5  # inches
SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "fairseq_kd", "text.parse_math": False}


def check_plot(path) -> None:
    """Raises KDError when the plot could not be written. Call it before the evaluation, not after it."""
    if Path(path).suffix != ".svg":
        raise KDError(f"--changes-plot {path}: the name must end with .svg")
    if importlib.util.find_spec("matplotlib") is None:
        raise KDError("--changes-plot needs matplotlib: pip install 'fairseq_kd[report]'")
    ensure_writable_folder(Path(path).absolute().parent)


def groups_of(entries: list[dict]) -> list[tuple[str, dict]]:
    """[(label, group)] of entries "changes": all segments of each, then its parts."""
    found = []
    for entry in entries:
        name = [entry["name"]] if "name" in entry else []
        found.append((", ".join(name) or "all segments", entry["overall"]))
        found += [(", ".join([*name, f"part {part['part']}"]), part) for part in entry.get("parts", [])]
    return found


def paint_changes(axes, groups: list[tuple[str, dict]]) -> None:
    """Draw one line per group, with the three shares in percent and their 95 % intervals. axes: of matplotlib."""
    for number, name in enumerate(CLASSES):
        colour, marker = LOOKS[name]
        shares = [100 * group[name]["share"] for _, group in groups]
        ends = [group[name]["interval"] for _, group in groups]
        ends = [
            [share, share] if end is None else [100 * one for one in end]
            for share, end in zip(shares, ends, strict=True)
        ]
        errors = [[max(0.0, s - low) for s, (low, _) in zip(shares, ends, strict=True)],
                  [max(0.0, high - s) for s, (_, high) in zip(shares, ends, strict=True)]]  # fmt: skip
        heights = [place + (number - 1) * 0.22 for place in range(len(groups))]
        axes.errorbar(shares, heights, xerr=errors, label=name, color=colour, marker=marker, linestyle="", capsize=3)
    axes.set_yticks(range(len(groups)), [label for label, _ in groups])
    axes.set(xlim=(0, 100), xlabel="share of the segments, %")
    axes.set_ylim(len(groups) - 0.5, -0.5)


def draw_changes(entries: list[dict], path) -> None:
    """Write the plot of entries "changes" as the SVG file `path`."""
    import matplotlib
    from matplotlib.figure import Figure

    groups, path = groups_of(entries), Path(path)
    with matplotlib.rc_context(SETTINGS), file_in_progress(path) as temporary:
        figure = Figure(figsize=(WIDTH, EMPTY_HEIGHT + ROW_HEIGHT * len(groups)), layout="constrained")
        axes = figure.subplots()
        paint_changes(axes, groups)
        figure.suptitle(
            f"by more than {entries[0]['threshold']:g} points of sentence chrF; 95 % intervals", size="medium"
        )
        figure.legend(loc="outside lower center", ncols=len(CLASSES))
        figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})

"""Plots of other measures than the score on one test set: noise in the source, reliability, training curves, latency.

Training curves are read from the log of fairseq-train.
"""

import json
import re
from pathlib import Path

from fairseq_kd.study.report.draw import COLOURS, Point, Series, draw_lines, picture
from fairseq_kd.study.report.plots import METRIC, SPREAD, Figure, point_of, slug
from fairseq_kd.study.report.rows import TEACHER, Row, Study, labels
from fairseq_kd.study.report.styles import styles_of

MARK = " | valid | {"
LOSS, UPDATES = "valid_nll_loss", "valid_num_updates"


def validation_curve(log: Path) -> list[tuple[int, float]]:
    """[(updates, loss in bits per token)] of all validations, in order; empty without a log.

    A training that was killed and continued has some validations twice; the last one counts.
    """
    if not log.is_file():
        return []
    curve = {}
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        _, mark, entry = line.partition(MARK)
        if mark:
            values = _parse("{" + entry)
            if LOSS in values and UPDATES in values:
                curve[int(values[UPDATES])] = float(values[LOSS])
    return sorted(curve.items())


def _parse(entry: str) -> dict:
    """The values of a line of the log; empty for a line that was cut off when the training was killed."""
    try:
        return json.loads(entry)
    except json.JSONDecodeError:
        return {}


SQUARE = 4.8  # inches, with the legend


def noise_figures(study: Study) -> list[Figure]:
    """BLEU against the noise level of the test source, for each subset that was evaluated at several levels."""
    subsets = dict.fromkeys(on.partition("@")[0] for on in study.sets)
    return [figure for subset in subsets for figure in _noise_figures(study, subset)]


def _noise_figures(study: Study, subset: str) -> list[Figure]:
    levels = {on: float(on.partition("@")[2] or 0) for on in study.sets if on.partition("@")[0] == subset}
    found = [(row, _noise_points(row, subset, levels)) for row in study.rows]
    rows = [row for row, points in found if len(points) > 1]
    teachers = [_noise_points(row, subset, levels) for row in study.teachers] if len(study.teachers) == 1 else []
    figures = []
    for number, (about, part) in enumerate(_parts(study, rows), start=1):
        series = [Series(name, _noise_points(row, subset, levels), style) for name, style, row in _named(study, part)]
        series += [Series(TEACHER, points) for points in teachers if points]
        name = slug(f"bleu-{subset}-by-test-noise-{number}")
        svg = picture(name, lambda axes, series=series: _paint_noise(axes, series, subset))
        figures.append(Figure(name, f"BLEU on {subset} against noise in its source{about}", SPREAD, svg))
    return figures


def _paint_noise(axes, series: list, subset: str) -> None:
    draw_lines(axes, series, [])
    axes.set(xlabel="noise in the source, % of its words", ylabel=f"BLEU on {subset}")


def _noise_points(row: Row, subset: str, levels: dict) -> list[Point]:
    """The points of a row: from sets such as test@10, else from the entry `robustness` of the results."""
    if len(levels) > 1:
        points = [point_of(x, row, on) for on, x in levels.items()]
        return [point for point in points if point is not None]
    found = {}
    for result in row.found(subset):
        for level in result.get("robustness", {}).get("levels", []):
            found.setdefault(level["percent"], []).append(level[METRIC])
    return [Point(x, [bleu["score"] for bleu in here], here[0].get("ci")) for x, here in found.items()]


def reliability_figures(study: Study) -> list[Figure]:
    """Accuracy against confidence, for the first seed of each row."""
    figures = []
    for on in study.sets:
        rows = [row for row in study.rows if _calibration(row, on)]
        for number, (about, part) in enumerate(_parts(study, rows), start=1):
            name = slug(f"reliability-{on}-{number}")
            title = f"Reliability on {on}{about}"
            caption = "Bins of equal numbers of tokens, gold prefixes; first seed of each row. ECE in the legend."
            svg = picture(name, lambda axes, part=part, on=on: _paint_reliability(axes, study, part, on), SQUARE)
            figures.append(Figure(name, title, caption, svg))
    return figures


def _paint_reliability(axes, study: Study, rows: list, on: str) -> None:
    axes.plot([0, 1], [0, 1], **Series("", []).look() | {"marker": "", "linewidth": 0.8})
    teachers = [row for row in study.teachers if _calibration(row, on)] if len(study.teachers) == 1 else []
    for name, style, row in [*_named(study, rows), *((TEACHER, None, row) for row in teachers)]:
        found = _calibration(row, on)
        xs, ys = ([point[name] for point in found["bins"]] for name in ("confidence", "accuracy"))
        axes.plot(xs, ys, label=f"{name}: {found['ece']:.3f}", markersize=5, **Series("", [], style).look())
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence", ylabel="accuracy")


def _calibration(row: Row, on: str) -> dict | None:
    return next((result["calibration"] for result in row.found(on) if "calibration" in result), None)


def training_figures(study: Study, work: Path) -> list[Figure]:
    """Loss on the validation set against updates, one line per seed."""
    curves = {}
    for number, row in enumerate([*study.rows, *study.teachers]):
        stages = [[name for name in run.stages if re.match("(student|teacher)-", name)][-1:] for run in row.runs]
        logs = [work / "stages" / name / "train.log" for names in stages for name in names]
        curves[number] = [curve for log in logs if (curve := validation_curve(log))]
    figures = []
    rows = [row for number, row in enumerate(study.rows) if curves[number]]
    for number, (about, part) in enumerate(_parts(study, rows), start=1):
        lines = [(name, style, curves[study.rows.index(row)]) for name, style, row in _named(study, part)]
        if len(study.teachers) == 1:
            lines.append((TEACHER, None, curves[len(study.rows)]))
        name = f"training-{number}"
        svg = picture(name, lambda axes, lines=lines: _paint_training(axes, lines))
        caption = "fairseq's nll_loss on the validation set: without label smoothing. One line per seed."
        figures.append(Figure(name, f"Training curves{about}", caption, svg))
    return figures


def _paint_training(axes, lines: list) -> None:
    from matplotlib.ticker import MaxNLocator

    for label, style, curves in lines:
        for index, curve in enumerate(curves):
            look = Series("", [], style).look() | {"markersize": 4, "linewidth": 1.2}
            axes.plot(*zip(*curve, strict=True), label=label if index == 0 else None, **look)
    axes.set(xlabel="updates", ylabel="loss, bits per token")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def latency_figures(study: Study) -> list[Figure]:
    """BLEU against the median latency, with the Pareto front: the points that no other point beats in both."""
    figures = []
    for on in study.sets:
        pairs = [(row, _latency_point(row, on)) for row in study.rows]
        pairs = [(row, point) for row, point in pairs if point is not None]
        if pairs:
            teachers = [point for row in study.teachers if (point := _latency_point(row, on)) is not None]
            name = slug(f"bleu-{on}-by-latency")
            svg = picture(name, lambda axes, pairs=pairs, more=teachers: _paint_latency(axes, study, pairs, more))
            caption = "p50 for one sentence at a time, means over seeds. The line is the Pareto front."
            figures.append(Figure(name, f"BLEU on {on} against latency", caption, svg))
    return figures


def _paint_latency(axes, study: Study, pairs: list, teachers: list) -> None:
    front, best = [], float("-inf")
    for point in sorted([point for _, point in pairs] + teachers, key=lambda point: (point.x, -point.mean)):
        if point.mean > best:
            front, best = [*front, point], point.mean
    xs, ys = [point.x for point in front], [point.mean for point in front]
    axes.plot(xs, ys, **Series("", []).look() | {"marker": "", "drawstyle": "steps-post", "linewidth": 0.9})
    by_method = {}
    for row, point in pairs:
        by_method.setdefault(row.factors.get("method"), []).append(point)
    styles = styles_of(study, [{} if method is None else {"method": method} for method in by_method])
    found = zip(by_method.items(), styles, strict=True)
    series = [Series(METRIC.upper() if name is None else str(name), points, look) for (name, points), look in found]
    for one in [*series, *([Series(TEACHER, teachers)] if teachers else [])]:
        xs, ys = [point.x for point in one.points], [point.mean for point in one.points]
        axes.errorbar(xs, ys, [p.spread for p in one.points], label=one.label, **one.look() | {"linestyle": ""})
    axes.set(xlabel="latency, ms per sentence", ylabel="BLEU")


def _latency_point(row: Row, on: str) -> Point | None:
    found = [result["latency"]["p50_ms"] for result in row.found(on) if "latency" in result]
    return point_of(sum(found) / len(found), row, on) if found else None


def _named(study: Study, rows: list) -> list[tuple]:
    """[(label, style, row)] for the rows of one plot."""
    several = [row.factors for row in rows]
    return list(zip(labels(several) if rows else [], styles_of(study, several), rows, strict=True))


def _parts(study: Study, rows: list) -> list[tuple[str, list]]:
    """[(text for the title, rows)]: rows divided so that a figure has enough colours, if needed.

    They are divided by the first factor that is not the method, so that a figure compares methods.
    """
    if len(rows) <= len(COLOURS):
        return [("", rows)] if rows else []
    first, parts = next((name for name in study.factors if name != "method"), "method"), {}
    for row in rows:
        parts.setdefault(row.factors.get(first, "none"), []).append(row)
    pieces = []
    for value, part in parts.items():
        for start in range(0, len(part), len(COLOURS)):
            more = f" ({start // len(COLOURS) + 1})" if len(part) > len(COLOURS) else ""
            pieces.append((f", {first} {value}{more}", part[start : start + len(COLOURS)]))
    return pieces

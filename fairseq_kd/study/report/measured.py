"""Plots of what is measured beside one score: noise in the test source, reliability, training, latency."""

import re
from pathlib import Path

from fairseq_kd.study.report.by_factor import SPREAD, Figure, slug
from fairseq_kd.study.report.curves import validation_curve
from fairseq_kd.study.report.draw import COLOURS, Point, Series, draw_lines, picture
from fairseq_kd.study.report.rows import TEACHER, Row, Study
from fairseq_kd.study.report.series import METRIC, point_of, series_of

SQUARE = 5.0  # inches, with the legend


def noise_figures(study: Study) -> list[Figure]:
    """BLEU against noise of the test source, a figure for each subset that was evaluated at several levels."""
    return [figure for subset in _subsets(study) if (figure := _noise_figure(study, subset)) is not None]


def _subsets(study: Study) -> list[str]:
    return list(dict.fromkeys(on.partition("@")[0] for on in study.sets))


def _noise_figure(study: Study, subset: str) -> Figure | None:
    levels = {on: float(on.partition("@")[2] or 0) for on in study.sets if on.partition("@")[0] == subset}
    teachers = [(row, point) for row in study.teachers for point in _noise_points(row, subset, levels)]
    pairs = [(row, point) for row in study.rows for point in _noise_points(row, subset, levels)]
    if len({point.x for _, point in pairs}) < 2:
        return None
    series = series_of(study, [], pairs)
    if len(study.teachers) == 1 and teachers:
        series.append(Series(TEACHER, [point for _, point in teachers]))

    def paint(axes):
        draw_lines(axes, series, [])
        axes.set(xlabel="noise in the source, % of its words", ylabel=f"BLEU on {subset}")

    name = slug(f"bleu-{subset}-by-test-noise")
    title = f"BLEU on {subset} against noise in its source"
    return Figure(name, title, SPREAD, picture(name, paint))


def _noise_points(row: Row, subset: str, levels: dict) -> list[Point]:
    """From sets such as test@10, else from the entry `robustness` of the results."""
    if len(levels) > 1:
        points = [point_of(x, row, on) for on, x in levels.items()]
        return [point for point in points if point is not None]
    found = {}
    for result in row.found(subset):
        for level in result.get("robustness", {}).get("levels", []):
            found.setdefault(level["percent"], []).append(level[METRIC])
    return [Point(x, [bleu["score"] for bleu in here], here[0].get("ci")) for x, here in found.items()]


def reliability_figures(study: Study) -> list[Figure]:
    """Accuracy against confidence, from the first seed of each row."""
    figures = []
    for on in study.sets:
        rows = [row for row in study.rows if _calibration(row, on)]
        for number, (about, part) in enumerate(_parts(study, rows), start=1):
            name = slug(f"reliability-{on}-{number}")
            title = f"Reliability on {on}{about}"
            caption = "Bins of equally many tokens under gold prefixes; the first seed of each row. ECE in the legend."
            svg = picture(name, lambda axes, part=part, on=on: _paint_reliability(axes, study, part, on), SQUARE)
            figures.append(Figure(name, title, caption, svg))
    return figures


def _paint_reliability(axes, study: Study, rows: list, on: str) -> None:
    axes.plot([0, 1], [0, 1], **Series("", []).look() | {"marker": "", "linewidth": 0.8})
    teachers = [row for row in study.teachers if _calibration(row, on)] if len(study.teachers) == 1 else []
    for style, row in [*enumerate(rows), *((None, row) for row in teachers)]:
        found = _calibration(row, on)
        xs, ys = ([point[name] for point in found["bins"]] for name in ("confidence", "accuracy"))
        axes.plot(xs, ys, label=f"{row.label}: {found['ece']:.3f}", markersize=5, **Series("", [], style).look())
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence", ylabel="accuracy")


def _calibration(row: Row, on: str) -> dict | None:
    return next((result["calibration"] for result in row.found(on) if "calibration" in result), None)


def training_figures(study: Study, work: Path) -> list[Figure]:
    """Loss on the validation set against updates, a line for each seed."""
    curves = {}
    for number, row in enumerate([*study.rows, *study.teachers]):
        stages = [[name for name in run.stages if re.match("(student|select|teacher)-", name)][-1:] for run in row.runs]
        logs = [work / "stages" / name / "train.log" for names in stages for name in names]
        curves[number] = [curve for log in logs if (curve := validation_curve(log))]
    figures = []
    rows = [row for number, row in enumerate(study.rows) if curves[number]]
    for number, (about, part) in enumerate(_parts(study, rows), start=1):
        lines = [(row, style, curves[study.rows.index(row)]) for style, row in enumerate(part)]
        if len(study.teachers) == 1:
            lines.append((study.teachers[0], None, curves[len(study.rows)]))
        name = f"training-{number}"
        svg = picture(name, lambda axes, lines=lines: _paint_training(axes, lines))
        caption = "Cross-entropy on the validation set without label smoothing, a line for each seed (fairseq's nll_loss)."
        figures.append(Figure(name, f"Training curves{about}", caption, svg))
    return figures


def _paint_training(axes, lines: list) -> None:
    for row, style, curves in lines:
        for index, curve in enumerate(curves):
            look = Series("", [], style).look() | {"markersize": 4, "linewidth": 1.2}
            axes.plot(*zip(*curve, strict=True), label=row.label if index == 0 else None, **look)
    axes.set(xlabel="updates", ylabel="loss, bits a token")


def latency_figures(study: Study) -> list[Figure]:
    """BLEU against the median latency, with the front: what nothing else beats in both."""
    figures = []
    for on in study.sets:
        pairs = [(row, _latency_point(row, on)) for row in study.rows]
        pairs = [(row, point) for row, point in pairs if point is not None]
        if pairs:
            teachers = [point for row in study.teachers if (point := _latency_point(row, on)) is not None]
            name = slug(f"bleu-{on}-by-latency")
            svg = picture(name, lambda axes, pairs=pairs, more=teachers: _paint_latency(axes, study, pairs, more))
            caption = "One sentence at a time, p50, means over seeds; the line is the front of what is not beaten in both."
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
        by_method.setdefault(row.factors.get("method", METRIC.upper()), []).append(point)
    series = [Series(str(label), points, style) for style, (label, points) in enumerate(by_method.items())]
    for one in [*series, *([Series(TEACHER, teachers)] if teachers else [])]:
        xs, ys = [point.x for point in one.points], [point.mean for point in one.points]
        axes.errorbar(xs, ys, [p.spread for p in one.points], label=one.label, **one.look() | {"linestyle": ""})
    axes.set(xlabel="latency, ms a sentence", ylabel="BLEU")


def _latency_point(row: Row, on: str) -> Point | None:
    found = [result["latency"]["p50_ms"] for result in row.found(on) if "latency" in result]
    return point_of(sum(found) / len(found), row, on) if found else None


def _parts(study: Study, rows: list) -> list[tuple[str, list]]:
    """Rows in parts of few enough for one figure: by the first factor, and in pieces where that is not enough."""
    if len(rows) <= len(COLOURS):
        return [("", rows)] if rows else []
    first, parts = next(iter(study.factors)), {}
    for row in rows:
        parts.setdefault(row.factors.get(first, "none"), []).append(row)
    return [
        (f", {first} {value}", part[start : start + len(COLOURS)])
        for value, part in parts.items()
        for start in range(0, len(part), len(COLOURS))
    ]

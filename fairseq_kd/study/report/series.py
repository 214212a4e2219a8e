"""Rows of a study as series of points: what has one colour in a plot."""

from fairseq_kd.study.report.draw import COLOURS, Point, Series
from fairseq_kd.study.report.rows import TEACHER, Row, Study, labels

METRIC = "bleu"
MOST_LEVELS = 4


def point_of(x, row: Row, on: str) -> Point | None:
    """The scores of a row on one evaluation set; None where there are none. x: None for one that has no place on it."""
    scores = row.scores(METRIC, on)
    return Point(x, scores, row.found(on)[0][METRIC].get("ci")) if scores else None


def series_of(study: Study, names: list, pairs: list) -> list[Series]:
    """Points in series by the factors that are not in `names`; by the method alone where these would be too many.

    pairs: (row, its point). Points of a series with the same x become one, of their means.
    """
    others = [name for name in study.factors if name not in names]
    groups = _grouped(pairs, others)
    if len(groups) > len(COLOURS):
        others = [name for name in others if name == "method"] or others[:1]
        groups = _grouped(pairs, others)
    names = labels([dict(key) for key in groups]) if groups else []
    return [
        Series(name or METRIC.upper(), _pooled(points), number)
        for number, (name, points) in enumerate(zip(names, groups.values(), strict=True))
    ]


def placed(series: list[Series]) -> tuple[list[Series], list[Series]]:
    """(what has a place on the axis, what is only a level)."""
    parts = []
    for wanted in (True, False):
        chosen = [[point for point in one.points if (point.x is not None) == wanted] for one in series]
        parts.append([Series(s.label, p, s.style) for s, p in zip(series, chosen, strict=True) if p])
    return parts[0], parts[1]


def teacher_series(study: Study, on: str, x_of) -> list[Series]:
    """One teacher for all as a level; else a line where each x has one teacher; else levels, if they are few.

    x_of: row -> its place, or None.
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

"""What came out, in short: the scores of the methods side by side, for the first evaluation set."""

from fairseq_kd.study.factors import METHODS
from fairseq_kd.study.report.limits import NEAR_ZERO
from fairseq_kd.study.report.plots import METRIC
from fairseq_kd.study.report.rows import METRICS, TEACHER, Row, Study, label, labels
from fairseq_kd.study.report.tables import NOT_DONE, Table

MOST_ROWS = 8


def short_table(study: Study) -> Table | None:
    """A line per combination of the other factors and a column per method; the highest rows where that is too much.

    None without results.
    """
    scored = _scored(study)
    if not scored:
        return None
    methods = [name for name in METHODS if name in study.factors.get("method", [])]
    methods += [name for name in study.factors.get("method", []) if name not in methods]
    combinations = _combinations(study)
    if len(methods) < 2 or len(combinations) > MOST_ROWS:
        return _highest(study, scored)
    on = study.sets[0]
    teachers = any(_find(study.teachers, one, TEACHER) for one in combinations)
    lines = []
    for one in combinations:
        rows = [_find(study.rows, one, method) for method in methods]
        rows += [_find(study.teachers, one, TEACHER)] if teachers else []
        means = [None if row is None else row.mean(METRIC, on) for row in rows]
        lines.append([label(one), *(NOT_DONE if value is None else f"{value:.2f}" for value in means)])
    head, title = ["at", *methods, *([TEACHER] if teachers else [])], _title(study)
    if len(combinations) == 1:
        return Table(title, head[1:], [lines[0][1:]], 0)
    return Table(title, head, lines, 1)


def _highest(study: Study, scored: list) -> Table:
    shown = scored[:MOST_ROWS]
    names = labels([row.factors for _, row in shown])
    lines = [[name, f"{score:.2f}"] for name, (score, _) in zip(names, shown, strict=True)]
    more = f": the highest {MOST_ROWS} of {len(scored)}" if len(scored) > MOST_ROWS else ""
    return Table(_title(study) + more, ["student", METRICS[METRIC]], lines, 1)


def _title(study: Study) -> str:
    several = any(len(row.runs) > 1 for row in study.rows)
    return f"{METRICS[METRIC]} on {study.sets[0]}{', mean over seeds' if several else ''}"


def best_row(study: Study) -> str:
    """One sentence about the student with the highest mean on the first set."""
    on, scored, name = study.sets[0], _scored(study), METRICS[METRIC]
    if not scored:
        return "No student is evaluated yet."
    score, row = scored[0]
    others = [one.mean(METRIC, on) for one in study.teachers if one.mean(METRIC, on) is not None]
    teacher = f"; the {'best ' if len(others) > 1 else ''}teacher has {max(others):.2f}" if others else ""
    if score < NEAR_ZERO:
        return f"No student has more than {score:.2f} {name} on {on}{teacher}."
    if len(scored) == 1:
        return f"The student ({row.label}) has {score:.2f} {name} on {on}{teacher}."
    return f"The best of {len(scored)} kinds of student on {on} is {row.label}, with {score:.2f} {name}{teacher}."


def _scored(study: Study) -> list[tuple]:
    """[(mean, row)] of the students with results on the first set, the highest first."""
    scored = [(row.mean(METRIC, study.sets[0]), row) for row in study.rows]
    return sorted([pair for pair in scored if pair[0] is not None], key=lambda pair: -pair[0])


def _combinations(study: Study) -> list[dict]:
    """The values of the other factors, each combination once, without those that are a part of another one."""
    found = []
    for row in study.rows:
        others = {name: value for name, value in row.factors.items() if name != "method"}
        if others not in found:
            found.append(others)
    return [one for one in found if not any(one != other and one.items() <= other.items() for other in found)]


def _find(rows: list, values: dict, method: str) -> Row | None:
    """The only row of a method whose other factors agree with `values`."""
    found = [
        row
        for row in rows
        if row.factors.get("method") == method
        and all(values.get(name) == value for name, value in row.factors.items() if name != "method")
    ]
    return found[0] if len(found) == 1 else None

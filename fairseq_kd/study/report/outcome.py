"""What came out, in short: the scores of the methods side by side, for the first evaluation set."""

from fairseq_kd.scoring.score import LOWER_IS_BETTER
from fairseq_kd.study.factors import METHODS
from fairseq_kd.study.report.plots import METRIC
from fairseq_kd.study.report.rows import METRICS, TEACHER, Row, Study, label
from fairseq_kd.study.report.tables import NOT_DONE, Table, score_text

MOST_ROWS = 8


def short_table(study: Study) -> Table | None:
    """A line per combination of the other factors, a column per method. None for many combinations or one method."""
    methods = [name for name in METHODS if name in study.factors.get("method", [])]
    methods += [name for name in study.factors.get("method", []) if name not in methods]
    combinations = _combinations(study)
    if len(methods) < 2 or len(combinations) > MOST_ROWS:
        return None
    on = study.sets[0]
    teachers = any(_find(study.teachers, one, TEACHER) for one in combinations)
    lines = []
    for one in combinations:
        rows = [_find(study.rows, one, method) for method in methods]
        rows += [_find(study.teachers, one, TEACHER)] if teachers else []
        lines.append([label(one), *(NOT_DONE if row is None else score_text(row, METRIC, on) for row in rows)])
    head, title = ["at", *methods, *([TEACHER] if teachers else [])], f"{METRICS[METRIC]} on {on}"
    if len(combinations) == 1:
        return Table(title, head[1:], [lines[0][1:]], 0)
    return Table(title, head, lines, 1)


def best_row(study: Study) -> str:
    """One sentence about the student with the highest mean on the first set; empty without results."""
    on = study.sets[0]
    scored = [(row.mean(METRIC, on), row) for row in study.rows if row.mean(METRIC, on) is not None]
    if not scored:
        return "No student is evaluated yet."
    choose = min if METRIC in LOWER_IS_BETTER else max
    score, row = choose(scored, key=lambda pair: pair[0])
    others = [one.mean(METRIC, on) for one in study.teachers if one.mean(METRIC, on) is not None]
    teacher = f"; the best teacher has {max(others):.2f}" if others else ""
    of = "the only student" if len(study.rows) == 1 else f"the highest of {len(scored)} kinds of student"
    return f"{row.label}: {score:.2f} {METRICS[METRIC]} on {on}, {of}{teacher}."


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

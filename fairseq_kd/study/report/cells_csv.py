"""cells.csv: every number of every result, unrounded, one line per model and evaluation set."""

import csv
import io

from fairseq_kd.study.report.rows import LONG, TEACHER, Row, Run, Study

LEFT_OUT = (*LONG, "format", "seed")
FIRST = ("model", "seed", "set")


def write_cells(study: Study, names: list) -> str:
    """The content of the file. names: the factors of the spec.

    An entry of a result within another one has both names, such as `bleu.score`. Entries that are text or lists are
    left out. A model that is not evaluated yet has a line without numbers.
    """
    lines = [line for row in study.teachers for line in _lines(row, study, TEACHER)]
    lines += [line for row in study.rows for line in _lines(row, study, "student")]
    given = [name for name in names if name != "seed" and any(name in line for line in lines)]
    head = [*FIRST, *given, *dict.fromkeys(name for line in lines for name in line)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(head)), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _lines(row: Row, study: Study, model: str) -> list[dict]:
    return [_line(row, run, on, model) for run in row.runs for on in study.sets]


def _line(row: Row, run: Run, on: str, model: str) -> dict:
    seconds = run.training_seconds
    line = {"model": model, "seed": run.seed, "set": on} | row.factors | run.factors
    line |= {} if model == "student" else {"method": TEACHER}
    return line | {"training_seconds": seconds} | _numbers(run.results[on] or {}, "")


def _numbers(entries: dict, before: str) -> dict:
    found = {}
    for name, value in entries.items():
        if not before and name in LEFT_OUT:
            continue
        if isinstance(value, dict):
            found |= _numbers(value, f"{before}{name}.")
        elif isinstance(value, list) and name == "levels":  # of noise, in the entry `robustness`
            for level in value:
                found |= _numbers(level, f"{before}{level['percent']:g}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{before}{name}"] = value
    return found

"""Tables of a report: scores with marks of significance, and other measures.

A mark of significance compares a row with the row of method `ce` that has the same other factors.
"""

from dataclasses import dataclass, field
from statistics import mean, stdev

from fairseq_kd.evaluation.estimates import ALPHA
from fairseq_kd.evaluation.significance import holm, paired_t
from fairseq_kd.study.report.rows import METRICS, Row, Study, digits, entry_of

BASELINE = "ce"
BETTER, WORSE = " ▲", " ▼"
MARKED = (
    f"{BETTER.strip()} better and {WORSE.strip()} worse than {BASELINE} with the same other factors: paired t-test "
    f"over seeds, p below {ALPHA} after Holm's correction for the tests of the table."
)


def find_marks(study: Study, metric: str) -> tuple[dict, int, str]:
    """({(number of the row, set): mark}, number of tests, note on the tests or on the reason why no mark exists).

    The test is a two-sided paired t-test over the seeds. p is corrected after Holm for all tests of the table.
    """
    pairs = [(number, baseline_of(study, row), row) for number, row in enumerate(study.rows)]
    pairs = [(number, baseline, row) for number, baseline, row in pairs if baseline is not None]
    if not pairs:
        return {}, 0, f"No marks of significance: no row has a counterpart with the method {BASELINE}."
    tested = []
    for number, baseline, row in pairs:
        for on in study.sets:
            ours, theirs = (_by_seed(side, metric, on) for side in (row, baseline))
            if ours.keys() == theirs.keys() and len(ours) == len(row.runs) == len(baseline.runs) > 1:
                tested.append((number, on, [ours[seed] for seed in ours], [theirs[seed] for seed in ours]))
    if not tested:
        why = f"no row and its row of {BASELINE} have several seeds, the same seeds, and all of them done"
        if all(len(row.runs) == 1 for row in study.rows):
            why = "one seed per row"
        return {}, 0, f"No marks of significance: {why}. fairseq-kd compare tests two results over their segments."
    found = [(number, on, ours, theirs, paired_t(ours, theirs)["p"]) for number, on, ours, theirs in tested]
    found = [entry for entry in found if entry[-1] is not None]  # None: the difference is the same for all seeds
    marks = {}
    for (number, on, ours, theirs, _), p in zip(found, holm([entry[-1] for entry in found]), strict=True):
        if p < ALPHA:
            better = (sum(ours) < sum(theirs)) == study.lower_is_better(metric)
            marks[number, on] = BETTER if better else WORSE
    return marks, len(found), MARKED


def baseline_of(study: Study, row: Row) -> Row | None:
    """The only row of method `ce` that agrees with `row` in all other factors that have an effect on it."""
    if row.factors.get("method", BASELINE) == BASELINE:
        return None
    found = [
        other
        for other in study.rows
        if other.factors.get("method") == BASELINE
        and all(row.factors.get(name) == value for name, value in other.factors.items() if name != "method")
    ]
    return found[0] if len(found) == 1 else None


def _by_seed(row: Row, metric: str, on: str) -> dict:
    done = {run.seed: run.results[on] for run in row.runs if run.results[on] is not None}
    return {seed: entry["score"] for seed, result in done.items() if (entry := entry_of(result, metric))}


NOT_DONE = "–"
# title with unit; function from a result to the value; format
MEASURES = (
    ("parameters", lambda r: r.get("parameters"), "{:,.0f}"),
    ("million operations per token", lambda r: _scaled(r.get("efficiency", {}).get("operations_per_token")), "{:.2f}"),
    ("decoding, s", lambda r: r.get("seconds"), "{:.1f}"),
    ("sentences/s", lambda r: r.get("efficiency", {}).get("sentences_per_second"), "{:.1f}"),
    ("latency p50, ms", lambda r: r.get("latency", {}).get("p50_ms"), "{:.1f}"),
    ("latency p95, ms", lambda r: r.get("latency", {}).get("p95_ms"), "{:.1f}"),
    ("memory, MB", lambda r: _scaled(r.get("efficiency", {}).get("peak_rss_bytes")), "{:,.0f}"),
    ("length ratio", lambda r: r.get("behaviour", {}).get("length_ratio"), "{:.3f}"),
    ("repetition", lambda r: r.get("behaviour", {}).get("repetition"), "{:.2%}"),
    ("copied", lambda r: r.get("behaviour", {}).get("copied"), "{:.2%}"),
    ("ECE", lambda r: r.get("calibration", {}).get("ece"), "{:.4f}"),
    ("NLL, bits", lambda r: r.get("calibration", {}).get("nll_bits"), "{:.3f}"),
    ("Brier", lambda r: r.get("calibration", {}).get("brier"), "{:.4f}"),
    ("top-1 agreement with the teacher", lambda r: r.get("agreement", {}).get("top1"), "{:.2%}"),
)


@dataclass(frozen=True)
class Table:
    """A table of text. The first `words` columns hold words, the others numbers.

    name: of its file. about: one line that belongs to this table alone. notes: how to read it, the same for several
    tables.
    """

    title: str
    head: list
    rows: list
    words: int
    notes: list = field(default_factory=list)
    name: str = ""
    about: str = ""


def score_tables(study: Study) -> list[Table]:
    """One table per metric: mean ± standard deviation over seeds, with marks."""
    return [_scores(study, metric) for metric in study.metrics()]


def _scores(study: Study, metric: str) -> Table:
    marks, tests, note = find_marks(study, metric)
    lines = [
        [*factor_words(study, row), *(score_text(row, metric, on) for on in study.sets), str(len(row.runs))]
        for row in study.teachers
    ]
    for number, row in enumerate(study.rows):
        scores = [score_text(row, metric, on) + marks.get((number, on), "") for on in study.sets]
        lines.append([*factor_words(study, row), *scores, str(len(row.runs))])
    notes = [f"Scores are the mean ± one standard deviation over seeds; {NOT_DONE} is not done."]
    if any("95 %" in cell for line in lines for cell in line):
        notes.append("With one seed, ± (95 %) is half of the interval from sacreBLEU's bootstrap.")
    about = f"{tests} tests against {BASELINE}, {len(marks)} of them are marked." if tests else ""
    title = METRICS.get(metric, metric) + (" (less is better)" if study.lower_is_better(metric) else "")
    head = [*study.factors, *study.sets, "seeds"]
    return Table(title, head, lines, len(study.factors), [*notes, note], metric, about)


def factor_words(study: Study, row: Row) -> list[str]:
    """The first columns of a row: its values of the factors."""
    return [str(row.factors.get(name, "")) for name in study.factors]


def score_text(row: Row, metric: str, on: str) -> str:
    """The score of a row as text: mean ± standard deviation over seeds."""
    scores = row.scores(metric, on)
    if not scores:
        return NOT_DONE
    places = digits(metric)
    shown = f"{mean(scores):.{places}f}"
    if len(scores) < len(row.runs):
        return f"{shown} ({len(scores)} of {len(row.runs)})"
    if len(scores) > 1:
        return f"{shown} ± {stdev(scores):.{places}f}"
    ci = entry_of(row.found(on)[0], metric).get("ci")
    return shown + ("" if ci is None else f" ± {ci:.{places}f} (95 %)")


def measure_tables(study: Study) -> list[Table]:
    """Measures other than scores, one table per evaluation set, with the columns that have a figure."""
    rows, tables = [*study.teachers, *study.rows], []
    for on in study.sets:
        columns = [column for column in MEASURES if any(_measure(row, on, column) != NOT_DONE for row in rows)]
        if not columns:
            continue
        lines = [[*factor_words(study, row), *(_measure(row, on, column) for column in columns)] for row in rows]
        head = [*study.factors, *(title for title, _, _ in columns)]
        notes = ["Measures are means over seeds. Times and memory depend on the machine and on its other work."]
        tables.append(Table(f"Measures on {on}", head, lines, len(study.factors), notes, f"measures-{on}"))
    return tables


def _measure(row: Row, on: str, column: tuple) -> str:
    _, value, form = column
    found = [value(result) for result in row.found(on)]
    found = [number for number in found if number is not None]
    return form.format(mean(found)) if found else NOT_DONE


def _scaled(number: float | None) -> float | None:
    return None if number is None else number / 1e6

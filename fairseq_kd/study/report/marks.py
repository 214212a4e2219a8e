"""Marks of significance in a table of scores: each row against that of the method `ce` with the same other factors."""

from fairseq_kd.evaluation.score import LOWER_IS_BETTER
from fairseq_kd.evaluation.significance import holm, paired_t
from fairseq_kd.study.report.rows import Row, Study

ALPHA = 0.05
BASELINE = "ce"
BETTER, WORSE = " ▲", " ▼"


def find_marks(study: Study, metric: str) -> tuple[dict, list[str]]:
    """({(number of the row, set): mark}, notes on how they were found or why there are none).

    A two-sided paired t-test over the seeds; p is corrected after Holm over all tests of the table.
    """
    pairs = [(number, baseline_of(study, row), row) for number, row in enumerate(study.rows)]
    pairs = [(number, baseline, row) for number, baseline, row in pairs if baseline is not None]
    if not pairs:
        return {}, [f"No marks of significance: no row has a row with the method {BASELINE} to be compared with."]
    tested = []
    for number, baseline, row in pairs:
        for on in study.sets:
            ours, theirs = (_by_seed(side, metric, on) for side in (row, baseline))
            if ours.keys() == theirs.keys() and len(ours) == len(row.runs) == len(baseline.runs) > 1:
                tested.append((number, on, [ours[seed] for seed in ours], [theirs[seed] for seed in ours]))
    if not tested:
        why = f"no row has all its seeds done and those of the row of {BASELINE} that it is compared with"
        if all(len(row.runs) == 1 for row in study.rows):
            why = "one seed a row"
        return {}, [f"No marks of significance: {why}. fairseq-kd compare tests two results over their segments."]
    found = [(number, on, ours, theirs, paired_t(ours, theirs)["p"]) for number, on, ours, theirs in tested]
    found = [entry for entry in found if entry[-1] is not None]  # None: no difference between seeds varies
    marks = {}
    for (number, on, ours, theirs, _), p in zip(found, holm([entry[-1] for entry in found]), strict=True):
        if p < ALPHA:
            better = (sum(ours) < sum(theirs)) == (metric in LOWER_IS_BETTER)
            marks[number, on] = BETTER if better else WORSE
    note = (
        f"{BETTER.strip()} better and {WORSE.strip()} worse than {BASELINE} with the same other factors: paired t-test "
        f"over seeds, p below {ALPHA} after Holm's correction for the {len(found)} tests of this table, of which "
        f"{len(marks)} are marked."
    )
    return marks, [note]


def baseline_of(study: Study, row: Row) -> Row | None:
    """The only row of the method `ce` that agrees with `row` in all other factors that concern it."""
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
    return {seed: result[metric]["score"] for seed, result in done.items() if metric in result}

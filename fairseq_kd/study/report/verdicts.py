"""The claims of a study with their verdicts, as a table and counted. `study.claims` has tested them."""

from collections import Counter

from fairseq_kd.evaluation.estimates import ALPHA
from fairseq_kd.study.claims import ClaimResult, power_note
from fairseq_kd.study.report.tables import NOT_DONE, Table

ORDER = ("supported", "refuted", "crossing", "no crossing", "several crossings", "undecided", "not tested yet")


def claim_table(verdicts: list[ClaimResult]) -> Table | None:
    """The claims with the figures behind their verdicts; None for a study without claims."""
    if not verdicts:
        return None
    columns = [("test", [v.test or NOT_DONE for v in verdicts]), ("estimate", [_write(v.estimate) for v in verdicts])]
    optional = (
        ("95 % interval", [v.interval and f"{v.interval[0]:+.2f} to {v.interval[1]:+.2f}" for v in verdicts]),
        ("detectable", [None if v.detectable is None else f"{v.detectable:.2f}" for v in verdicts]),
    )
    columns += [(name, [value or NOT_DONE for value in values]) for name, values in optional if any(values)]
    columns += [(name, [_write(value, "{:.4f}") for value in values]) for name, values in _p_values(verdicts)]
    cells = zip(*(values for _, values in columns), strict=True)
    rows = [[v.text, v.verdict, *line] for v, line in zip(verdicts, cells, strict=True)]
    count = sum(v.p_holm is not None for v in verdicts)
    notes = [
        f"Supported and refuted claims have p below {ALPHA} after Holm's correction for the {count} claims that are "
        "tested. The other tested claims are undecided: what was found may be chance."
    ]
    if any(optional[1][1]):
        notes.append(power_note())
    return Table("Claims", ["claim", "verdict", *(name for name, _ in columns)], rows, 3, notes, "claims")


def _p_values(verdicts: list[ClaimResult]) -> tuple:
    return ("p", [v.p for v in verdicts]), ("p, Holm", [v.p_holm for v in verdicts])


def _write(value: float | None, form: str = "{:+.2f}") -> str:
    return NOT_DONE if value is None else form.format(value)


def count_verdicts(verdicts: list[ClaimResult]) -> str:
    """One sentence: how many claims have each verdict; empty without claims."""
    if not verdicts:
        return ""
    counts = Counter(verdict.verdict for verdict in verdicts)
    known = [word for word in ORDER if word in counts]
    parts = [f"{counts[word]} {word}" for word in (*known, *sorted(counts.keys() - set(ORDER)))]
    return f"Of {len(verdicts)} {'claim' if len(verdicts) == 1 else 'claims'}: {', '.join(parts)}."

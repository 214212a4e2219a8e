"""The claims of a study with their verdicts, as sentences and as a table.

`read_verdicts` is the only place that reads comparisons; everything else uses `Verdict`.
"""

from dataclasses import dataclass
from pathlib import Path

from fairseq_kd.evaluation.significance import holm
from fairseq_kd.scoring.score import LOWER_IS_BETTER
from fairseq_kd.study.report.rows import METRICS
from fairseq_kd.study.report.tables import ALPHA, NOT_DONE, Table
from fairseq_kd.study.state import read_output

DECIDED = ("supported", "refuted", "undecided")
NOT_TESTED, FAILED = "not tested yet", "the test failed"
T_TESTS = {"paired_t": "paired t-test", "welch_t": "Welch's t-test"}


@dataclass(frozen=True)
class Verdict:
    """A claim after its test.

    verdict: one of DECIDED, NOT_TESTED or FAILED. estimate: what the claim is about, such as a difference of scores.
    interval: (low, high) of the estimate. p_holm: p after Holm's correction for all claims. detectable: the smallest
    difference that this study could have found. Entries without a value are None.
    """

    text: str
    verdict: str
    sentence: str
    test: str | None = None
    estimate: float | None = None
    interval: tuple | None = None
    p: float | None = None
    p_holm: float | None = None
    detectable: float | None = None


def read_verdicts(results: dict, work: Path) -> list[Verdict]:
    """The verdicts of the claims in results.json. Paths in it are relative to `work`."""
    tested = [_tested(work, claim) for claim in results["claims"]]
    corrected = holm([p for *_, p in tested])
    return [_verdict(*entry) for entry in zip(results["claims"], tested, corrected, strict=True)]


def _tested(work: Path, claim: dict) -> tuple[str | None, float | None, float | None]:
    """(test, difference, p without a correction for other claims).

    The baseline of the comparison is the side that is claimed to be worse.
    """
    if claim["comparison"] is None:
        return None, None, None
    found = read_output(work / claim["comparison"])
    other = found["systems"][1]
    if (test := other["decided_by"]) in T_TESTS:
        return f"{T_TESTS[test]} over {len(other['scores'])} seeds", other["difference"], other[test]["p_holm"]
    p = other["approximate_randomisation"]["p_holm"][0]
    return f"approximate randomisation over {found['segments']:,} segments", other["difference"], p


def _verdict(claim: dict, tested: tuple, p_holm: float | None) -> Verdict:
    test, difference, p = tested
    if test is None:
        verdict = FAILED if claim["state"] == "failed" else NOT_TESTED
        return Verdict(claim["text"], verdict, f"{claim['text']}: {verdict}.")
    verdict = "undecided"
    if p_holm is not None and p_holm < ALPHA:
        verdict = "supported" if (difference < 0) == (claim["metric"] in LOWER_IS_BETTER) else "refuted"
    sentence = _sentence(claim, verdict, test, difference, p_holm)
    return Verdict(claim["text"], verdict, sentence, test, difference, None, p, p_holm)


def _sentence(claim: dict, verdict: str, test: str, difference: float, p: float | None) -> str:
    at = ", ".join(f"{name} {value}" for name, value in claim["at"].items())
    where = f"{f' at {at}' if at else ''} on {claim['on']}"
    metric = METRICS.get(claim["metric"], claim["metric"])
    amount = f"{abs(difference):.2f} {metric} {'more' if difference > 0 else 'less'}"
    shown = "no p, because the difference is the same for all seeds" if p is None else f"p = {p:.4f}"
    doubt = "; this may be chance" if verdict == "undecided" else ""
    better = " (less is better)" if claim["metric"] in LOWER_IS_BETTER else ""
    return f"{claim['better']} has {amount}{better} than {claim['worse']}{where}{doubt} ({test}, {shown})."


def claim_table(verdicts: list[Verdict]) -> Table | None:
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
        notes.append("Detectable is the smallest difference that this study could have found.")
    return Table("Claims", ["claim", "verdict", *(name for name, _ in columns)], rows, 3, notes, "claims")


def _p_values(verdicts: list[Verdict]) -> tuple:
    return ("p", [v.p for v in verdicts]), ("p, Holm", [v.p_holm for v in verdicts])


def _write(value: float | None, form: str = "{:+.2f}") -> str:
    return NOT_DONE if value is None else form.format(value)


def count_verdicts(verdicts: list[Verdict]) -> str:
    """One sentence: how many claims have each verdict; empty without claims."""
    if not verdicts:
        return ""
    found = [verdict.verdict for verdict in verdicts]
    others = [word for word in found if word not in (*DECIDED, NOT_TESTED, FAILED)]  # of claims of other kinds
    words = dict.fromkeys([*DECIDED, *others, NOT_TESTED, FAILED])
    parts = [f"{found.count(word)} {word if word != FAILED else 'without a test'}" for word in words if word in found]
    return f"Of {len(verdicts)} {'claim' if len(verdicts) == 1 else 'claims'}: {', '.join(parts)}."

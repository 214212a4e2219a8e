"""From the scores of cells to verdicts, with Holm's correction over all tested claims of a study, and power.

A claim that is not decided is shown with the smallest difference that the study would have found. The level of that
test is 0.05 divided by the number of claims that are not decided: a claim whose p is below it is decided, whatever the
p of the others is (Holm 1979).
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from fairseq_kd.evaluation.estimates import ALPHA, POWER
from fairseq_kd.evaluation.significance import holm
from fairseq_kd.study.claims.base import KINDS, UNDECIDED, Outcome
from fairseq_kd.study.state import read_output

FAILED, WAITING = "the test failed", "not tested yet"
FIELDS = ("text", "kind", "verdict", "sentence", "estimate", "interval", "p", "p_holm", "test", "detectable", "level")


@dataclass(frozen=True)
class ClaimResult:
    """A claim with its verdict: "supported", "refuted", "undecided", "the test failed" or "not tested yet".

    For a crossing: "crossing", "no crossing", "several crossings" or "undecided".

    sentence: the finding in plain words. estimate, interval (95 %): of the claim's statistic. p: before, p_holm: after
    Holm's correction over all tested claims. test: in words. detectable: the smallest difference that would have been
    found with a probability of 80 % at `level`. All of these are None where they do not exist.
    """

    text: str
    kind: str
    verdict: str
    sentence: str
    estimate: float | None = None
    interval: list | None = None
    p: float | None = None
    p_holm: float | None = None
    test: str | None = None
    detectable: float | None = None
    level: float | None = None

    @property
    def finding(self) -> str:
        """The sentence without the verdict at its beginning; empty for a claim that was not tested."""
        return self.sentence.partition(": ")[2]

    def as_dict(self) -> dict:
        """For results.json."""
        return asdict(self)


def claim_results(claims: list[dict], work: Path) -> list[ClaimResult]:
    """Judge the claims of a study.

    claims: of `Claim.as_dict`, with "comparison" (file of the scores relative to `work`, None before it exists) and
    "state" (of its stage).
    """
    outcomes = [_outcome(claim, work) for claim in claims]
    p_values = [outcome and outcome.p for outcome in outcomes]
    corrected = holm(p_values)
    levels = _levels(p_values, corrected)
    rows = zip(claims, outcomes, corrected, levels, strict=True)
    return [_result(claim, outcome, p_holm, level) for claim, outcome, p_holm, level in rows]


def read_claim_results(results: dict) -> list[ClaimResult]:
    """The judged claims of results.json."""
    return [ClaimResult(**{name: claim[name] for name in FIELDS}) for claim in results["claims"]]


def _outcome(claim: dict, work: Path) -> Outcome | None:
    if claim["comparison"] is None:
        return None
    return KINDS[claim["kind"]].test(claim, read_output(work / claim["comparison"]))


def _levels(p_values: list, corrected: list) -> list[float]:
    """The level at which Holm's method tests each claim; claims that are not decided share the last one."""
    tested = sorted(p for p in p_values if p is not None)
    decided = sum(p is not None and p < ALPHA for p in corrected)
    left = [ALPHA / max(1, len(tested) - min(decided, 0 if p is None else tested.index(p))) for p in p_values]
    return [ALPHA if p is None else level for p, level in zip(p_values, left, strict=True)]


def _result(claim: dict, outcome: Outcome | None, p_holm: float | None, level: float) -> ClaimResult:
    if outcome is None:
        verdict = FAILED if claim["state"] == "failed" else WAITING
        return ClaimResult(claim["text"], claim["kind"], verdict, f"{verdict}.")
    verdict = outcome.verdict or (outcome.favours if p_holm is not None and p_holm < ALPHA else UNDECIDED)
    detectable = outcome.detectable and outcome.detectable(level)
    return ClaimResult(
        text=claim["text"],
        kind=claim["kind"],
        verdict=verdict,
        sentence=_sentence(outcome, verdict, p_holm, detectable),
        estimate=outcome.estimate,
        interval=None if outcome.interval is None else [float(bound) for bound in outcome.interval],
        p=outcome.p,
        p_holm=p_holm,
        test=outcome.test,
        detectable=detectable,
        level=level,
    )


def _sentence(outcome: Outcome, verdict: str, p_holm: float | None, detectable: float | None) -> str:
    figures = []
    if outcome.interval is not None:
        figures.append("95 % interval {:.2f} to {:.2f}".format(*outcome.interval))
    if p_holm is not None and verdict != UNDECIDED:
        figures.append(f"p {_p(p_holm)} after Holm's correction")
    about = f" ({'; '.join(figures)})" if figures else ""
    sentence = f"{'not decided' if verdict == UNDECIDED else verdict}: {outcome.said}{about}"
    if verdict == UNDECIDED and (outcome.p is not None or outcome.detectable is not None):
        sentence += f"; {_power(outcome, detectable)}"
    return " ".join(filter(None, [f"{sentence}.", outcome.note]))


def _power(outcome: Outcome, detectable: float | None) -> str:
    """What the study would have found."""
    if detectable is not None:
        return f"with {outcome.sample} this study would have found {outcome.finds.format(f'{detectable:.2f}')}"
    if outcome.detectable is not None:
        return "the observed values do not vary, so the smallest detectable difference is not known"
    return "the file of the test is of an earlier version, so the smallest detectable difference is not known"


def _p(value: float) -> str:
    return "below 0.0001" if value < 1e-4 else f"{value:.4f}"


def power_note() -> str:
    """What "would have found" means, for a report."""
    return (
        f"The difference that a study would have found is the one that it finds with a probability of "
        f"{POWER * 100:.0f} %, if the true scatter is the observed one, at the level {ALPHA} divided by the number of "
        "undecided claims."
    )

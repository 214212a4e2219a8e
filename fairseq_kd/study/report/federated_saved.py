"""How many rounds a start saves, beside what arXiv 2402.14922 says about consolidation before the rounds."""

from statistics import mean

from fairseq_kd.evaluation.estimates import over_seeds
from fairseq_kd.study.report.rows import labels

PAPER = 60.6
SAID = (
    f"arXiv 2402.14922 (abstract) says that consolidation before federated rounds saves {PAPER} % of the rounds on "
    "average. That number is about other models, data and targets; an interval over few seeds is wide."
)


def saved_of(runs: list) -> list[float]:
    """The shares of the rounds from random weights that runs save, in percent; only of runs that have one."""
    return [100 * run.saved for run in runs if run.saved is not None]


def percent(saved: list[float]) -> str:
    """The mean, with its interval over seeds, which ends at 100 %."""
    interval = over_seeds(saved).interval() if len(saved) > 1 else None
    return f"{mean(saved):.0f} %" + (f" ({interval[0]:.0f} to {min(interval[1], 100):.0f})" if interval else "")


def of_the_paper(found: list) -> list[str]:
    """The rows that begin with one model made of several, beside what the paper says about consolidation."""
    names, lines = labels([row.factors for row, _ in found]), []
    for name, (_, runs) in zip(names, found, strict=True):
        if not runs[0].one_of_several or len(saved := saved_of(runs)) < 2:
            continue
        interval, verdict = over_seeds(saved).interval(), "all seeds save the same share."
        if interval is not None:
            verb = "contains" if interval[0] <= PAPER <= interval[1] else "does not contain"
            verdict = f"the interval {verb} {PAPER} %."
        missed = f" in the {len(saved)} of {len(runs)} seeds that have a number" if len(saved) < len(runs) else ""
        lines.append(f"{name}: fewer rounds than random by {percent(saved)}{missed}; {verdict}")
    return [SAID, *lines] if lines else []

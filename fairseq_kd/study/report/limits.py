"""Where the results of a study stop being meaningful, as sentences."""

from pathlib import Path

from fairseq_kd.artifacts.manifest import read_manifest
from fairseq_kd.cache.truncation import MOST
from fairseq_kd.study.plan import Plan
from fairseq_kd.study.report.plots import METRIC
from fairseq_kd.study.report.rows import Row, Study

NEAR_ZERO = 5.0  # BLEU
REPETITION = 0.2  # share of words
SEEDS = 3
FEW_SEGMENTS = 200
MOST_NAMED = 4


def find_limits(study: Study) -> list[str]:
    """The limits that apply: a few words, a colon, and what they mean. Empty without any."""
    if not study.results():
        return []
    return [*_seeds(study), *_near_zero(study), *_repetition(study), *_small_sets(study)]


def no_limits(study: Study) -> str:
    """What is said where no limit applies."""
    if not study.results():
        return "There are no results yet."
    measured = any("behaviour" in result for result in study.results())
    repetition = (
        f"no model repeats more than {REPETITION * 100:g} % of its words" if measured else "repetition not measured"
    )
    return f"No limit was found: all scores are above {NEAR_ZERO:g} BLEU, {repetition}, three seeds or more."


def truncated_teachers(plan: Plan, work: Path) -> list[str]:
    """The caches of the study that leave out most of the teacher's mass, one line per temperature."""
    found = {}  # (temperature, entries) -> masses
    caches = (work / "stages" / stage.name / "cache" for stage in plan.stages.values() if stage.kind == "cache")
    for manifest in filter(None, map(read_manifest, caches)):
        for temperature, mass in zip(manifest["temperatures"], manifest["mean_tail_mass"], strict=True):
            if mass > MOST:
                found.setdefault((temperature, manifest["k"]), []).append(mass)
    return [
        f"Truncated teacher at temperature {temperature:g}: {_range(masses)} of its mass is outside of the {entries} "
        "entries per token that its caches store, so the students learnt another distribution than the teacher's. They "
        "say little about this temperature. With signal online the teacher runs beside the student; top-k in the "
        "section cache stores more entries."
        for (temperature, entries), masses in sorted(found.items())
    ]


def _range(masses: list[float]) -> str:
    ends = dict.fromkeys(f"{100 * mass:.0f} %" for mass in (min(masses), max(masses)))
    return " to ".join(ends)


def _seeds(study: Study) -> list[str]:
    fewest = min(len(row.runs) for row in study.rows)
    if fewest == 1:
        return [
            "One seed: nothing here shows how much the scores change with another random seed. Tests over segments are "
            "about these trainings only, not about the methods."
        ]
    if fewest < SEEDS:
        return [f"{fewest} seeds: tests over seeds show only very large differences (three or more are usual)."]
    return []


def _near_zero(study: Study) -> list[str]:
    low = {
        on: [row for row in _models(study) if (score := row.mean(METRIC, on)) is not None and score < NEAR_ZERO]
        for on in study.sets
    }
    return [
        f"BLEU near 0 (below {NEAR_ZERO:g}) on {on}: {_named(study, rows)}. Such translations share few words with the "
        "references, and differences between them mean little."
        for on, rows in low.items()
        if rows
    ]


def _repetition(study: Study) -> list[str]:
    lines = []
    for on in study.sets:
        rows = [row for row in _models(study) if (_rate(row, on) or 0) > REPETITION]
        if rows:
            lines.append(
                f"Repetition above {REPETITION * 100:g} % on {on}: {_named(study, rows)}. These models repeat words "
                "instead of translating, so their scores say little about the method."
            )
    return lines


def _rate(row: Row, on: str) -> float | None:
    rates = [result["behaviour"]["repetition"] for result in row.found(on) if "behaviour" in result]
    return sum(rates) / len(rates) if rates else None


def _small_sets(study: Study) -> list[str]:
    sizes = {on: result["sentences"] for on in study.sets for result in study.results_on(on) if "sentences" in result}
    small = [f"{on} ({size})" for on, size in sizes.items() if size < FEW_SEGMENTS]
    return [f"Fewer than {FEW_SEGMENTS} sentences: {', '.join(small)}; scores are rough."] if small else []


def _models(study: Study) -> list[Row]:
    return [*study.teachers, *study.rows]


def _named(study: Study, rows: list) -> str:
    if len(rows) == len(_models(study)):
        return "all models"
    names = "; ".join(row.label for row in rows[:MOST_NAMED])
    return names if len(rows) <= MOST_NAMED else f"{names}; and {len(rows) - MOST_NAMED} more"

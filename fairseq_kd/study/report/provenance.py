"""The origin of the figures in a report: data, versions, hashes, signatures; and what is unfinished or failed."""

from dataclasses import dataclass
from pathlib import Path

from fairseq_kd.study.plan import Plan
from fairseq_kd.study.report.rows import Study, entry_of
from fairseq_kd.study.report.tables import NOT_DONE, Table
from fairseq_kd.study.state import end_of_log, record_of, stage_states

LOG_LINES_SHOWN = 15


@dataclass(frozen=True)
class Failure:
    """A failed stage, the cells that need it, and the end of its log."""

    stage: str
    cells: list
    log: str


def failures(plan: Plan, work: Path) -> list[Failure]:
    """The stages that have failed."""
    failed = [name for name, state in stage_states(plan, work).items() if state == "failed"]
    cells = {name: [cell for cell in plan.cells if name in plan.stages_of(cell)] for name in failed}
    return [Failure(name, cells[name], end_of_log(work / "stages" / name, LOG_LINES_SHOWN)) for name in failed]


def older(results: dict) -> list[str]:
    """The note about results that other versions made; empty without such results."""
    said = results["older"]
    return [f"{said}. `fairseq-kd study run --old-stages recompute` makes them again."] if said else []


def unfinished(results: dict) -> list[str]:
    """Notes on what is unfinished; empty for a finished study."""
    states = [cell["state"] for cell in results["cells"]]
    counts = {state: states.count(state) for state in ("failed", "running", "waiting") if state in states}
    lines = []
    if counts:
        others = ", ".join(f"{count} {state}" for state, count in counts.items())
        lines.append(f"{states.count('done')} of {len(states)} cells are done, {others}.")
    claims = [claim["state"] for claim in results["claims"]]
    if untested := sum(state not in ("done", "failed") for state in claims):
        lines.append(f"{untested} of {len(claims)} claims are not tested yet.")
    if failed := claims.count("failed"):
        lines.append(f"The tests of {failed} of {len(claims)} claims have failed.")
    teachers = sum(None in teacher["results"].values() for teacher in results["teachers"])
    if teachers:
        lines.append(f"{teachers} of {len(results['teachers'])} teachers are not evaluated yet.")
    return lines


def signatures(study: Study) -> list[str]:
    """The signatures of all scores in the tables."""
    found = [entry_of(result, metric) for result in study.results() for metric in study.metrics()]
    return sorted({score["signature"] for score in found if score and "signature" in score})


def version_table(plan: Plan, work: Path) -> Table:
    """The library versions of the finished stages; several per line where stages differ."""
    found = {}
    for name in plan.stages:
        for library, version in (record_of(work / "stages" / name) or {}).get("versions", {}).items():
            found.setdefault(library, set()).add(version)
    lines = [[library, ", ".join(sorted(versions))] for library, versions in found.items()]
    return Table("Versions", ["library", "version"], lines, 2)


def artefact_table(plan: Plan, work: Path, results: dict) -> Table:
    """The sha256 of the spec and of the output of every stage."""
    lines = [["spec", NOT_DONE, results["spec_sha256"]]]
    for name in plan.stages:
        record = record_of(work / "stages" / name) or {}
        seconds = record.get("seconds")
        lines.append([name, NOT_DONE if seconds is None else f"{seconds:,.1f}", record.get("fingerprint", NOT_DONE)])
    notes = [
        "For a training this is the sha256 of checkpoint_best.pt, for a data-bin or cache the sha256 of its manifest."
    ]
    return Table("Hashes", ["stage", "seconds", "sha256"], lines, 1, notes)


def provenance_tables(plan: Plan, study: Study, work: Path, results: dict) -> list[Table]:
    """Evaluation sets, versions and hashes."""
    tables = [data_table(study), version_table(plan, work), artefact_table(plan, work, results)]
    return [table for table in tables if table is not None]


def data_table(study: Study) -> Table | None:
    """Corpus and size of each evaluation set, from the results; None when no result has them."""
    lines = []
    for on in study.sets:
        results = [result for row in [*study.teachers, *study.rows] for result in row.found(on)]
        found = {
            (str(r["sentences"]), str(r["corpus_name"]), str(r["manifest_sha256"]))
            for r in results
            if {"sentences", "corpus_name", "manifest_sha256"} <= set(r)
        }
        lines += [[on, name, sentences, manifest] for sentences, name, manifest in sorted(found)]
    head = ["evaluation set", "corpus", "sentences", "sha256 of the data-bin's manifest"]
    return Table("Evaluation sets", head, lines, 2) if lines else None

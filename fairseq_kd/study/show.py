"""The messages of a study to its user: plan, status, line of progress and failed stages as text, and results.json."""

from pathlib import Path

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.artifacts.writing import write_json
from fairseq_kd.core.progress import Progress, format_seconds
from fairseq_kd.study.claims import claim_results
from fairseq_kd.study.durations import Estimates
from fairseq_kd.study.existing import existing_path
from fairseq_kd.study.key import inputs_of
from fairseq_kd.study.maker import KINDS
from fairseq_kd.study.plan import Plan
from fairseq_kd.study.refresh import rounds_of
from fairseq_kd.study.state import CHOICES, LOG, STATES, Records, cell_states, end_of_log, record_of, stage_states

LOG_LINES_SHOWN = 12
RESULTS_NAME = "results.json"
RESULTS_FORMAT = 1


def format_plan(plan: Plan, work: Path) -> str:
    """The cells, the stages by kind, and the hours that they take, as far as there is an estimate."""
    lines = [f"study {plan.spec.name}: {len(plan.cells)} cells"]
    lines += [f"    {name}" for name in plan.cells]
    if plan.excluded or plan.repeated:
        lines.append(f"{plan.excluded} combinations are excluded, {plan.repeated} would repeat another cell")
    estimates = Estimates(plan, work)
    lines += ["", f"{'stage':<10}{'stages':>8}{'without sharing':>17}{'done':>7}{'hours':>11}"]
    states = stage_states(plan, work)
    for kind in KINDS:
        names = [stage.name for stage in plan.stages.values() if stage.kind == kind]
        if names:
            done = sum(states[name] == "done" for name in names)
            seconds, unknown = estimates.total(names)
            hours = "not known" if unknown == len(names) else _hours(seconds) + (" +" if unknown else "")
            lines.append(f"{kind:<10}{len(names):>8}{plan.asked[kind]:>17}{done:>7}{hours:>11}")
    return "\n".join([*lines, *_total(plan, estimates), *_older(plan)])


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f}" if seconds >= 18 or not seconds else "<0.01"


def _older(plan: Plan) -> list[str]:
    about = plan.about_older
    return [f"{about}; `study run` asks for --old-stages {' or '.join(CHOICES)}"] if about else []


def _total(plan: Plan, estimates: Estimates) -> list[str]:
    lines = [f"{'all':<10}{len(plan.stages):>8}{sum(plan.asked.values()):>17}", ""]
    _, unknown = estimates.total(plan.stages)
    lines.append(f"time of all stages, one at a time: {estimates.describe(plan.stages)}")
    if 0 < len(estimates.unfinished) < len(plan.stages):
        lines.append(f"time of the stages that remain: {estimates.describe(estimates.unfinished)}")
    if unknown:
        measurable = len(estimates.measurable())
        measured = f"--calibrate measures {measurable} of them, " if measurable else ""
        lines.append(
            f"not known: the time of {unknown} stages ({measured}the first finished stage of a kind shows the time of "
            "the others)"
        )
    return lines


def format_status(plan: Plan, work: Path) -> str:
    """The state of every cell, and the number of stages in each state."""
    stages = stage_states(plan, work)
    cells = cell_states(plan, stages)
    width = max(map(len, cells))
    lines = [f"{'cell':<{width}}  state    stages done"]
    for cell, state in cells.items():
        names = plan.stages_of(cell)
        lines.append(f"{cell:<{width}}  {state:<8} {sum(stages[name] == 'done' for name in names)}/{len(names)}")
    lines += ["", f"{'stage':<10}" + "".join(f"{state:>9}" for state in STATES)]
    for kind in KINDS:
        found = [stages[stage.name] for stage in plan.stages.values() if stage.kind == kind]
        if found:
            lines.append(f"{kind:<10}" + "".join(f"{found.count(state):>9}" for state in STATES))
    lines += _older(plan)
    failures = format_failures(plan, work, stages)
    return "\n".join(lines) + (f"\n\n{failures}" if failures else "")


def format_failures(plan: Plan, work: Path, stages: dict) -> str:
    """Each failed stage with the cells that need it and the end of its log; empty without failed stages."""
    parts = []
    for name, state in stages.items():
        if state == "failed":
            folder = work / "stages" / name
            lost = [cell for cell in plan.cells if name in plan.stages_of(cell)]
            parts.append(f"failed: {name}, which {len(lost)} of {len(plan.cells)} cells need: {', '.join(lost)}")
            parts.append(f"the end of {folder / LOG}:")
            parts.append("\n".join(f"    {line}" for line in end_of_log(folder, LOG_LINES_SHOWN).splitlines()))
    return "\n".join(parts)


class StudyProgress(Progress):
    """One line for the whole study. The remaining time is the estimated time of the unfinished stages."""

    def __init__(self, plan: Plan, work: Path):
        super().__init__(f"study {plan.spec.name}", len(plan.stages), "stages")
        self.plan, self.work, self._records = plan, work, Records(work)
        self._running = 0

    def look(self) -> None:
        """Read the states of the stages, and print the line when it is due."""
        states = list(stage_states(self.plan, self.work, self._records).values())
        self._running = states.count("running")
        self.reach(states.count("done"), f"{self._running} running, {states.count('failed')} failed")

    def _text(self, elapsed: float, note: str) -> str:
        estimates = Estimates(self.plan, self.work, self._records)
        seconds, unknown = estimates.total(estimates.unfinished)
        time = f"{'more than' if unknown else 'about'} {format_seconds(seconds / max(1, self._running))} left"
        if unknown and not seconds:
            time = "time left not known"
        return f"{self.done:,}/{self.total:,} {self.unit}, {time}, {note}"


def write_results(plan: Plan, work: Path) -> dict:
    """Write and return WORK/results.json, the input of every report. Paths in it are relative to WORK."""
    stages = stage_states(plan, work)
    states = cell_states(plan, stages)
    results = {
        "format": RESULTS_FORMAT,
        "kind": "study-results",
        "name": plan.spec.name,
        "question": plan.spec.question,
        "spec_sha256": sha256_file(plan.spec.path),
        "older": plan.about_older if plan.takes_older else None,
        "cells": [_cell(plan, work, name, states[name], stages) for name in plan.cells],
        "teachers": [_teacher(plan, teacher, stages) for teacher in plan.teachers],
        "claims": _claims(plan, work, stages),
        "existing": plan.existing.artefacts,
        "commands": {name: (record_of(work / "stages" / name) or {}).get("command") for name in plan.stages},
    }
    write_json(work / RESULTS_NAME, results)  # no seal: this package never reads it
    return results


def _cell(plan: Plan, work: Path, name: str, state: str, stages: dict) -> dict:
    cell = plan.cells[name]
    return {
        "name": name,
        "factors": cell["factors"],
        "state": state,
        "results": _paths(cell["results"], stages),
        "stages": plan.stages_of(name),
        "training_seconds": cell["student"] and _training_seconds(plan, work, cell["student"]),
    }


def _training_seconds(plan: Plan, work: Path, student: str) -> float | None:
    """The time of a student's training, in all its rounds; None until it is done."""
    records = [record_of(work / "stages" / name) for name in rounds_of(plan.stages, student)]
    return round(sum(record["seconds"] for record in records), 1) if all(records) else None


def _teacher(plan: Plan, teacher: dict, stages: dict) -> dict:
    paths = existing_path(teacher["checkpoint"], plan.existing.artefacts).split(":")
    return {
        **({"name": teacher["name"]} if "name" in teacher else {}),
        "checkpoint": ":".join(part.removeprefix("@/") for part in paths),
        "results": _paths(teacher["results"], stages),
        "cells": teacher["cells"],
        "stages": plan.needed(inputs_of([teacher["checkpoint"]])),
    }


def _claims(plan: Plan, work: Path, stages: dict) -> list[dict]:
    """The claims with their verdicts."""
    claims = []
    for claim in plan.claims:
        (comparison,) = _paths({"": claim["compare"]}, stages, "comparison.json").values()
        claims.append(claim | {"comparison": comparison, "state": stages[claim["compare"]]})
    judged = claim_results(claims, work)
    return [claim | result.as_dict() for claim, result in zip(claims, judged, strict=True)]


def _paths(results: dict, stages: dict, file: str = "result.json") -> dict:
    """Evaluation set -> file of its stage; None while the stage is not done."""
    return {name: f"stages/{stage}/{file}" if stages[stage] == "done" else None for name, stage in results.items()}

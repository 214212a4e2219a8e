"""What a study has found: results.json, one row a cell, the input of the report."""

from pathlib import Path

from fairseq_kd.artifacts.manifest import sha256_file
from fairseq_kd.artifacts.writing import write_json
from fairseq_kd.study.plan import Plan
from fairseq_kd.study.state import cell_states, record_of, stage_states

RESULTS_NAME = "results.json"
FORMAT = 1


def write_results(plan: Plan, work: Path) -> dict:
    """Write WORK/results.json, the input of every report; paths are relative to WORK."""
    stages = stage_states(plan, work)
    states = cell_states(plan, stages)
    results = {
        "format": FORMAT,
        "kind": "study-results",
        "name": plan.spec.name,
        "spec_sha256": sha256_file(plan.spec.path),
        "older": plan.about_older if plan.takes_older else None,
        "cells": [
            {
                "name": name,
                "factors": cell["factors"],
                "state": states[name],
                "results": _paths(cell["results"], stages),
                "stages": plan.stages_of(name),
                "training_seconds": (record_of(work / "stages" / cell["student"]) or {}).get("seconds"),
            }
            for name, cell in plan.cells.items()
        ],
        "teachers": [
            {
                "checkpoint": teacher["checkpoint"].removeprefix("@/"),
                "results": _paths(teacher["results"], stages),
                "cells": teacher["cells"],
                "stages": plan.needed([Path(teacher["checkpoint"]).parts[2]]),
            }
            for teacher in plan.teachers
        ],
        "claims": [
            claim
            | {
                "comparison": _paths({"": claim["compare"]}, stages, "comparison.json")[""],
                "state": stages[claim["compare"]],
            }
            for claim in plan.claims
        ],
        "commands": {name: (record_of(work / "stages" / name) or {}).get("command") for name in plan.stages},
    }
    write_json(work / RESULTS_NAME, results)
    return results


def _paths(results: dict, stages: dict, file: str = "result.json") -> dict:
    """Evaluation set -> file of its stage, None while that is not done."""
    return {name: f"stages/{stage}/{file}" if stages[stage] == "done" else None for name, stage in results.items()}

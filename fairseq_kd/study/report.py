"""What a study has found: results.json, one row a cell, and tables in Markdown."""

import json
import os
from pathlib import Path
from statistics import mean, stdev

from fairseq_kd.corpus.manifest import sha256_file, write_json
from fairseq_kd.study.plan import Plan
from fairseq_kd.study.state import cell_states, record_of, stage_states

RESULTS_NAME, REPORT_NAME = "results.json", "report.md"
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
            {"checkpoint": checkpoint.removeprefix("@/"), "results": _paths(teacher["results"], stages)}
            for checkpoint, teacher in plan.teachers.items()
        ],
        "claims": [
            claim | {"comparison": _paths({"": claim["compare"]}, stages, "comparison.json")[""]}
            for claim in plan.claims
        ],
        "commands": {name: (record_of(work / "stages" / name) or {}).get("command") for name in plan.stages},
    }
    write_json(work / RESULTS_NAME, results)
    return results


def _paths(results: dict, stages: dict, file: str = "result.json") -> dict:
    """Evaluation set -> file of its stage, None while that is not done."""
    return {name: f"stages/{stage}/{file}" if stages[stage] == "done" else None for name, stage in results.items()}


def write_report(plan: Plan, work: Path) -> str:
    """Write results.json and report.md, and return what the latter says."""
    results = write_results(plan, work)
    text = "\n".join(_report(results, work)) + "\n"
    temporary = work / f".{REPORT_NAME}"
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, work / REPORT_NAME)
    return text


def _report(results: dict, work: Path) -> list[str]:
    done = [cell for cell in results["cells"] if cell["state"] == "done"]
    lines = [f"# Study {results['name']}", "", f"{len(done)} of {len(results['cells'])} cells are done.", ""]
    sets = list(results["cells"][0]["results"])
    factors = [name for name in _factor_names(results) if name != "seed"]
    lines += [f"| {' | '.join([*factors, 'seeds', *sets])} |", f"|{'---|' * (len(factors) + 1 + len(sets))}"]
    signatures = set()
    for teacher in results["teachers"]:
        scores = [_bleu(work, [teacher["results"][name]], signatures) for name in sets]
        lines.append(f"| {' | '.join(['teacher', *[''] * (len(factors) - 1), '1', *scores])} |")
    for values, cells in _by_factors(results["cells"], factors).items():
        scores = [_bleu(work, [cell["results"][name] for cell in cells], signatures) for name in sets]
        lines.append(f"| {' | '.join([*values, str(len(cells)), *scores])} |")
    if results["claims"]:
        lines += ["", "| claim | verdict |", "|---|---|"]
        lines += [f"| {claim['text']} | {_verdict(work, claim['comparison'])} |" for claim in results["claims"]]
    lines += ["", "BLEU, mean ± standard deviation over seeds; – is not done.", ""]
    return [*lines, *[f"`{signature}`" for signature in sorted(signatures)]]


def _verdict(work: Path, comparison: str | None) -> str:
    """By the paired tests of `fairseq-kd compare`, whose baseline is the side that is said to be worse."""
    if comparison is None:
        return "–"
    _, other = json.loads((work / comparison).read_text(encoding="utf-8"))["systems"]
    return {"better": "supported", "worse": "refuted"}.get(other["verdict"], "undecided")


def _factor_names(results: dict) -> list[str]:
    return list(dict.fromkeys(name for cell in results["cells"] for name in cell["factors"]))


def _by_factors(cells: list, factors: list) -> dict:
    groups = {}
    for cell in cells:
        groups.setdefault(tuple(str(cell["factors"].get(name, "")) for name in factors), []).append(cell)
    return groups


def _bleu(work: Path, paths: list, signatures: set) -> str:
    found = [json.loads((work / path).read_text(encoding="utf-8"))["bleu"] for path in paths if path]
    signatures.update(entry["signature"] for entry in found)
    scores = [entry["score"] for entry in found]
    if len(scores) < len(paths):
        return f"{mean(scores):.2f} ({len(scores)} of {len(paths)})" if scores else "–"
    return f"{scores[0]:.2f}" if len(scores) == 1 else f"{mean(scores):.2f} ± {stdev(scores):.2f}"

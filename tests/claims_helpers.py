"""Claims of a plan judged from given scores, in the files that the engine writes."""

import json

import numpy as np
from report_helpers import finish_stage, plan_of

from fairseq_kd.cli.main import main
from fairseq_kd.evaluation.significance import paired_t
from fairseq_kd.study.claims import read_claim_results
from fairseq_kd.study.show import write_results
from fairseq_kd.study.stage import resolve

SEGMENTS = 200


def judged(folder, claims, scores, resampled=None, **changes):
    """The judged claims of a study.

    scores: (values of the factors except the seed) -> scores, one per seed; a value of `test-noise` comes last.
    resampled: the same keys -> scores of resamples, for studies of one seed.
    """
    methods, noise = ({}.fromkeys(key[place] for key in scores) for place in (0, 1))
    factors = {"method": list(methods), "noise": list(noise)}
    seeds = len(next(iter(scores.values())))
    if seeds > 1:
        factors["seed"] = list(range(1, seeds + 1))
    if "seq" not in methods:
        changes["decode"] = None  # it would have no effect
    if list(methods) == ["ce"]:
        changes["teacher"] = None
    return judge(plan_of(folder, factors=factors, claims=list(claims), **changes), folder, scores, resampled)


def judge(plan, work, scores, resampled=None):
    """The claims of a plan."""
    for claim in plan.claims:
        rows = [_system(plan, name, runs, scores, resampled) for name, runs in claim["systems"].items()]
        finish_stage(plan, work, claim["compare"], 1.0)
        content = {"kind": "scores", "segments": SEGMENTS, "systems": rows}
        if claim["kind"] == "comparison":
            content = {"kind": "comparison", "segments": SEGMENTS, "systems": _compared(rows)}
        (work / "stages" / claim["compare"] / "comparison.json").write_text(json.dumps(content))
    return read_claim_results(write_results(plan, work))


def _system(plan, name, runs, scores, resampled) -> dict:
    found, key = [], None
    for cell, on in runs:
        factors = plan.cells[cell]["factors"]
        key = factors["method"], factors["noise"]
        key += (int(on.partition("@")[2] or 0),) if len(next(iter(scores))) == 3 else ()
        found.append(scores[key][factors.get("seed", 1) - 1])
    return {"name": name, "scores": found, "resampled": list(resampled[key]) if resampled else None}


def _compared(rows) -> list[dict]:
    baseline, other = rows
    other["difference"] = float(np.mean(other["scores"]) - np.mean(baseline["scores"]))
    found = paired_t(other["scores"], baseline["scores"])
    return [baseline, other | {"decided_by": "paired_t", "paired_t": found | {"p_holm": found["p"]}}]


def compare_results(plan, work) -> None:
    """Run the comparisons of a plan whose results exist, in this process."""
    for claim in plan.claims:
        stage = plan.stages[claim["compare"]]
        finish_stage(plan, work, stage.name, 1.0)
        command = resolve(stage.command, work, work / "stages" / stage.name, None, {})
        assert main(command[1:]) == 0

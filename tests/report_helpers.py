"""Finished studies with random numbers from a seed, in the files that the engine writes."""

import json
import math
import random

from study_helpers import write_spec

from fairseq_kd.study.cells import make_cells
from fairseq_kd.study.plan import Plan
from fairseq_kd.study.spec import load_spec

GAIN = {"ce": 0.0, "word": 1.5, "seq": 2.2, "word+seq": 3.0, "dp": 2.0, "teacher": 7.0}
SIGNATURE = "|nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"


def plan_of(folder, **changes) -> Plan:
    """A plan of the spec `smoke` with other sections."""
    spec = load_spec(write_spec(folder, **changes))
    return Plan(spec, make_cells(spec))


def finish_study(plan, work, rich=True, leave_out=()) -> None:
    """Write the files of a finished study into `work`, without the stages of the cells in leave_out."""
    draw = random.Random(1)
    kept = {name for cell in plan.cells if cell not in leave_out for name in plan.stages_of(cell)}
    for name in sorted(kept):
        stage = plan.stages[name]
        if stage.kind in ("student", "teacher"):
            _write_log(work / "stages" / name, draw)
        finish_stage(plan, work, name, round(draw.uniform(5, 50), 1))
    for cell in plan.cells.values():
        for on, stage in cell["results"].items():
            if stage in kept:
                method = cell["factors"]["method"]
                noise = float(cell["factors"].get("noise", 0)) + float(on.partition("@")[2] or 0)
                width = float(cell["factors"].get("width", 64))
                write_result(work, stage, _result(draw, method, noise, width, rich), rich)
    for teacher in plan.teachers:
        for on, stage in teacher["results"].items():
            finish_stage(plan, work, stage, 9.0)
            write_result(work, stage, _result(draw, "teacher", float(on.partition("@")[2] or 0), 128, rich), rich)
    for claim in plan.claims:
        cells = (*claim["cells_better"], *claim["cells_worse"])
        if {plan.cells[cell]["results"][claim["on"]] for cell in cells} <= kept:
            finish_stage(plan, work, claim["compare"], 3.0)
            write_comparison(work, claim["compare"], seeds=len(claim["cells_better"]), p=draw.uniform(0, 0.1))


def finish_stage(plan, work, name, seconds) -> None:
    """Write the record of a finished stage."""
    folder = work / "stages" / name
    folder.mkdir(parents=True, exist_ok=True)
    record = {"stage": name, "command": " ".join(plan.stages[name].command), "seconds": seconds}
    record |= {"fingerprint": f"{abs(hash_of(name)):064x}", "versions": {"fairseq_kd": "0.1.0", "torch": "2.13.0"}}
    (folder / "done.json").write_text(json.dumps(record))


def hash_of(name) -> int:
    """A number that depends on the name alone."""
    return random.Random(name).getrandbits(256)


def write_result(work, stage, result, rich) -> None:
    """Write the file of an evaluation; without `rich` it holds BLEU only."""
    content = result if rich else {"bleu": result["bleu"]}
    (work / "stages" / stage / "result.json").write_text(json.dumps(content))


def write_comparison(work, stage, seeds, p, difference=0.71) -> None:
    """Write the file of a comparison: the parts that a report reads."""
    other = {
        "difference": difference,
        "scores": [30.0] * seeds,
        "decided_by": "paired_t" if seeds > 1 else "approximate_randomisation",
        "paired_t": {"t": 4.0, "p": p, "p_holm": p} if seeds > 1 else None,
        "approximate_randomisation": {"p": [p], "p_holm": [p]},
    }
    content = {"kind": "comparison", "segments": 1000, "systems": [{"scores": [29.3] * seeds}, other]}
    (work / "stages" / stage / "comparison.json").write_text(json.dumps(content))


def _result(draw, method, noise, width, rich) -> dict:
    bleu = 27 + GAIN[method] + 3 * math.log2(width / 64) - 0.25 * noise + draw.gauss(0, 0.4)
    power = draw.uniform(1, 1.6)
    bins = [{"tokens": 500, "confidence": c / 11, "accuracy": (c / 11) ** power} for c in range(1, 11)]
    return {
        "format": 2,
        "kind": "result",
        "bleu": {"score": bleu, "signature": f"BLEU{SIGNATURE}", "mean": bleu, "ci": 0.9},
        "chrf": {"score": bleu + 28, "signature": "chrF2|nrefs:1|case:mixed|eff:yes|version:2.6.0", "ci": 0.7},
        "ter": {"score": 90 - bleu, "signature": "TER|nrefs:1|case:lc|tok:tercom|version:2.6.0", "ci": 1.1},
        "behaviour": {"length_ratio": 0.98, "repetition": 0.004, "copied": 0.01, "empty": 0.0},
        "efficiency": {"operations_per_token": 2.2e6, "sentences_per_second": 120.5, "peak_rss_bytes": 600_000_000},
        "calibration": {"ece": draw.uniform(0.01, 0.1), "nll_bits": 2.5, "brier": 0.4, "bins": bins},
        "latency": {"sentences": 100, "p50_ms": 5 + width / 16 + draw.random(), "p95_ms": 30.0},
        "seconds": 4.0,
        "parameters": int(3000 * width + 8 * width**2),
        "sentences": 1000,
        "corpus_name": "test",
        "manifest_sha256": "ab" * 32,
        "hypotheses": ["x"],
        "references": ["x"],
    }


def _write_log(folder, draw) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    losses = [(n, 3 + 6 * math.exp(-n / 150) + draw.gauss(0, 0.03)) for n in range(50, 500, 50)]
    lines = [
        f'2026-01-01 00:00:00 | INFO | valid | {{"valid_nll_loss": "{loss:.3f}", "valid_num_updates": "{n}"}}'
        for n, loss in losses
    ]
    cut_off = '2026-01-01 00:00:00 | INFO | valid | {"valid_nll_loss": "9'
    (folder / "train.log").write_text("\n".join([lines[0], cut_off, *lines]) + "\n")

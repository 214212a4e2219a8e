"""The result of a consolidation: every model, the best one, their mean, their ensemble and the student, with tests."""

from pathlib import Path

from fairseq_kd.artifacts.derived import link
from fairseq_kd.artifacts.records import write_record
from fairseq_kd.study.consolidation import CONSOLIDATED, Consolidation, names_of_models
from fairseq_kd.study.plan import Plan
from fairseq_kd.study.show import RESULTS_NAME
from fairseq_kd.study.stages import BEST
from fairseq_kd.study.state import read_output

RESULT, CHECKPOINT = "result.json", "consolidated.pt"
FORMAT, KIND = 1, "fairseq_kd consolidation"
NAMES = {CONSOLIDATED: "consolidated", "best": "best model", "soup": "mean of weights", "ensemble": "ensemble"}


def write_outcome(plan: Plan, work: Path, out: Path, request: Consolidation, no_soup: str | None) -> dict:
    """Write `out`/result.json and the checkpoint of the student, and return the content of the file.

    plan: the study in `work`, whose stages are all done.
    """
    results = read_output(work / RESULTS_NAME)
    rows = [*_models(results, work, request), *_cells(results, work)]
    student = next(cell["student"] for cell in plan.cells.values() if cell["student"])
    checkpoint = work / "stages" / student / BEST
    link(checkpoint, out / CHECKPOINT)
    kept = ("text", "verdict", "sentence", "estimate", "interval", "p", "p_holm", "test")
    content = {
        "format": FORMAT,
        "kind": KIND,
        "data_bin": str(Path(request.data_bin).absolute()),
        "checkpoint": str(out / CHECKPOINT),
        "start": request.start,
        "weights": request.weights,
        "transfer": request.transfer,
        "updates": request.updates,
        "seed": request.seed,
        "no_soup": no_soup,
        "selections": _selections(plan, work),
        "rows": rows,
        "winner": max(rows, key=lambda row: row["bleu"])["name"],
        "tests": [{name: claim[name] for name in kept} for claim in results["claims"]],
        "study": str(work),
    }
    write_record(out / RESULT, content)
    return content


def _models(results: dict, work: Path, request: Consolidation) -> list[dict]:
    names, rows = names_of_models(request.models), []
    for teacher in results["teachers"]:
        if teacher["checkpoint"] in names:
            rows.append(_row(names[teacher["checkpoint"]], work, teacher) | {"checkpoint": teacher["checkpoint"]})
    order = list(names.values())
    return sorted(rows, key=lambda row: order.index(row["name"]))


def _cells(results: dict, work: Path) -> list[dict]:
    return [_row(NAMES[cell["factors"]["method"]], work, cell) for cell in results["cells"]]


def _row(name: str, work: Path, found: dict) -> dict:
    (file,) = found["results"].values()
    result = read_output(work / file)
    scores = {metric: result[metric]["score"] for metric in ("bleu", "chrf")}
    halves = {f"{metric}_ci": result[metric].get("ci") for metric in scores}
    return {"name": name, **scores, **halves, "parameters": result["parameters"], "result": str(work / file)}


def _selections(plan: Plan, work: Path) -> list[dict]:
    """What `select-teacher` has measured and chosen, once per way to choose."""
    stages = [name for name, stage in plan.stages.items() if stage.kind == "select"]
    return [read_output(work / "stages" / name / "selection" / "selection.json") for name in stages]


def format_outcome(content: dict) -> str:
    """The table, the tests and the winner as plain text."""
    width = max(len(row["name"]) for row in content["rows"])
    lines = [f"{'model':<{width}}{'BLEU':>16}{'chrF2':>16}{'parameters':>14}"]
    lines.append("-" * len(lines[0]))
    for row in content["rows"]:
        scores = (f"{row[name]:.2f}{_half(row[f'{name}_ci'])}" for name in ("bleu", "chrf"))
        lines.append(f"{row['name']:<{width}}" + "".join(f"{one:>16}" for one in scores) + f"{row['parameters']:>14,}")
    if content["no_soup"]:
        lines.append(f"no mean of weights: {content['no_soup']}")
    lines += ["", *(f"{test['text']}: {test['sentence']}" for test in content["tests"])]
    return "\n".join([*lines, "", f"the highest BLEU: {content['winner']}", f"student: {content['checkpoint']}"])


def _half(ci: float | None) -> str:
    return "" if ci is None else f" ± {ci:.2f}"

"""The results of a search: search.json, search.md, and the choice as chosen.yaml, like configs/kd/robust.yaml.

Keys of search.json, "format" 1. Scores are BLEU, {"mean", "sd", "scores"} over seeds, None where one seed failed:

    name, spec_sha256, algorithm, seeds, signature
    older       the line about stages that other versions made, or None
    steps       how the choice was made: [{"parameters", "runs"}], a run is {"configuration", "options", "validation",
                "chosen"}
    costs       parameter -> {"best_value", "best_score", "worst_value", "worst_score", "groups"}, see
                `strategies.Cost`, or None
    finalists   "chosen", "start", "robust" -> {"options", "validation", "test", "results"}; results are files in WORK
    tested      chosen against robust on the test set: {"difference", "test", "p", "verdict"}, with the tests and
                verdicts of `evaluation.compare`; p is None where the difference is the same for all seeds. Or
                {"not_tested": reason}
    teachers    the teachers of the finalists: [{"name", "validation", "test"}], scores of one training
    limits      [sentence]: caches of the trained configurations that leave out most of the teacher's mass
    failed      [{"stage", "log"}]; log is the end of the stage's log
"""

from pathlib import Path
from statistics import mean, stdev

import yaml

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.artifacts.writing import write_json, write_text
from fairseq_kd.core.errors import KDError
from fairseq_kd.evaluation.compare import CompareOptions, compare
from fairseq_kd.evaluation.results import DECIDED_BY
from fairseq_kd.evaluation.significance import paired_t
from fairseq_kd.search.space import CHOICE
from fairseq_kd.search.spec import TEST, VALIDATION, SearchSpec
from fairseq_kd.search.strategies import Outcome, Run, Step, resolve_kd_word
from fairseq_kd.study.key import inputs_of
from fairseq_kd.study.plan import Plan
from fairseq_kd.study.report.limits import truncated_teachers
from fairseq_kd.study.state import end_of_log, read_output, stage_states
from fairseq_kd.training.arguments import PRECISION, PRECISIONS

SUBSETS = {"validation": VALIDATION, "test": TEST}
JSON_NAME, REPORT_NAME, CHOSEN_NAME = "search.json", "search.md", "chosen.yaml"
FORMAT = 1
LOG_LINES_SHOWN = 12


def finalists(search: SearchSpec, outcome: Outcome) -> dict[str, dict]:
    """Name -> options of the runs for the test data: the choice, the start and robust.yaml, unless they failed."""
    failed = [run.options for run in outcome.runs if run.score is None]
    found = {"chosen": outcome.best.options, "start": outcome.start.options, "robust": resolve_kd_word(search.robust)}
    return {name: options for name, options in found.items() if options not in failed}


def cells_of(plan: Plan, label: str) -> list[dict]:
    """The cells of a configuration, one per seed."""
    return [cell for cell in plan.cells.values() if cell["factors"]["configuration"] == label]


def read_scores(plan: Plan, label: str, subset: str, work: Path) -> dict | None:
    """BLEU of a configuration over seeds; None when any seed has no score."""
    return _scores([cell["results"][subset] for cell in cells_of(plan, label)], work)


def _scores(stages: list[str], work: Path) -> dict | None:
    paths = [work / path for path in _files(stages)]
    if not all(path.is_file() for path in paths):
        return None
    scores = [read_output(path)["bleu"]["score"] for path in paths]
    return {"mean": mean(scores), "sd": stdev(scores) if len(scores) > 1 else None, "scores": scores}


def _files(stages: list[str]) -> list[str]:
    return [f"stages/{stage}/result.json" for stage in stages]


def write_search_report(search: SearchSpec, outcome: Outcome, work: Path) -> str:
    """Write the three files and return the text of search.md."""
    found = _collect(search, outcome, work)
    text = "\n".join(_report(found)) + "\n"
    write_json(work / JSON_NAME, found)  # no seal: this package never reads it
    write_text(work / REPORT_NAME, text)
    write_text(work / CHOSEN_NAME, _as_yaml(found))
    return text


def _collect(search: SearchSpec, outcome: Outcome, work: Path) -> dict:
    plan = search.plan({search.label(run.options): run.options for run in outcome.runs}, [VALIDATION])
    compared = finalists(search, outcome)
    last = search.plan(compared, [VALIDATION, TEST])
    states = stage_states(plan, work) | stage_states(last, work)
    failed = [name for name, state in states.items() if state == "failed"]
    rows = {name: _finalist(name, options, last, work) for name, options in compared.items()}
    return {
        "format": FORMAT,
        "kind": "search",
        "name": search.name,
        "spec_sha256": sha256_file(search.trained.path),
        "algorithm": search.algorithm,
        "seeds": search.seeds,
        "older": plan.about_older if plan.takes_older else None,
        "signature": _signature(last, work),
        "steps": [_step(step, search, plan, work) for step in outcome.steps],
        "costs": {name: None if cost is None else vars(cost) for name, cost in outcome.costs.items()},
        "finalists": rows,
        "tested": _test(rows["chosen"], rows.get("robust"), work),
        "teachers": [_teacher(last, teacher, work) for teacher in last.teachers],
        "limits": truncated_teachers(plan, work),
        "failed": [{"stage": name, "log": end_of_log(work / "stages" / name, LOG_LINES_SHOWN)} for name in failed],
    }


def _signature(plan: Plan, work: Path) -> str:
    (path,) = _files([cells_of(plan, "chosen")[0]["results"][VALIDATION]])
    return read_output(work / path)["bleu"]["signature"]


def _step(step: Step, search: SearchSpec, plan: Plan, work: Path) -> dict:
    def row(run: Run) -> dict:
        scores = read_scores(plan, search.label(run.options), VALIDATION, work)
        if scores is None and run.score is not None:
            raise KDError(
                f"{work}/optuna-*.db has a score of {search.label(run.options)}, but its stages were removed: "
                "remove that file too, and the configuration is trained again"
            )
        return {
            "configuration": run.configuration,
            "options": run.options,
            "validation": None if run.score is None else scores,
            "chosen": run.configuration == step.chosen.configuration,
        }

    return {"parameters": list(step.names), "runs": [row(run) for run in step.runs]}


def _finalist(name: str, options: dict, plan: Plan, work: Path) -> dict:
    scores = {key: read_scores(plan, name, subset, work) for key, subset in SUBSETS.items()}
    stages = {key: [cell["results"][subset] for cell in cells_of(plan, name)] for key, subset in SUBSETS.items()}
    return {"options": options, **scores, "results": {key: _files(found) for key, found in stages.items()}}


def _test(chosen: dict, robust: dict | None, work: Path) -> dict:
    """The one planned test: over seeds where there are several, else over segments. See the module."""
    if robust is None or robust["test"] is None or chosen["test"] is None:
        return {"not_tested": "one of them has no scores on the test set"}
    if chosen["results"]["test"] == robust["results"]["test"]:  # they are the same experiment
        return {"not_tested": "the choice is robust.yaml"}
    ours, theirs = chosen["test"]["scores"], robust["test"]["scores"]
    difference = chosen["test"]["mean"] - robust["test"]["mean"]
    if len(ours) == 1:
        files = {name: [work / row["results"]["test"][0]] for name, row in (("robust", robust), ("chosen", chosen))}
        found = compare(files, CompareOptions())["systems"][1]
        (p,) = found["approximate_randomisation"]["p"]
        return {"difference": difference, "test": found["decided_by"], "p": p, "verdict": found["verdict"]}
    p = paired_t(ours, theirs)["p"]
    shown = p is not None and p < CompareOptions().alpha
    verdict = ("better" if difference > 0 else "worse") if shown else "no difference shown"
    return {"difference": difference, "test": "paired_t", "p": p, "verdict": verdict}


def _teacher(plan: Plan, teacher: dict, work: Path) -> dict:
    stages, results = [plan.stages[name] for name in inputs_of([teacher["checkpoint"]])], teacher["results"]
    command = stages[0].command if stages else ()  # none: the checkpoints existed before
    chosen = f" {command[command.index('--by') + 1]}" if "--by" in command else ""
    needed = plan.needed([stage.name for stage in stages])
    trainings = [plan.stages[name] for name in needed if plan.stages[name].kind == "teacher"]
    own = teacher.get("name") or ("s together" if teacher["checkpoint"].count(":") else "")
    name = f"teacher{' ' * ('name' in teacher)}{own}{chosen}"
    name += f", {PRECISIONS[1]}" if any("--autocast" in training.command for training in trainings) else ""
    return {"name": name} | {key: _scores([results[subset]], work) for key, subset in SUBSETS.items()}


def _as_yaml(found: dict) -> str:
    chosen, seeds = found["finalists"]["chosen"], len(found["seeds"])
    options = dict(chosen["options"])
    teacher = {"select-teacher": {"by": options.pop(CHOICE)}} if CHOICE in options else {}
    common = {"common": {PRECISION: options.pop(PRECISION)}} if PRECISION in options else {}
    score = f"{chosen['validation']['mean']:.2f} BLEU on the validation set, {seeds} seeds"
    comment = f"# Chosen by `fairseq-kd search {found['name']}`: {score}.\n"
    return comment + yaml.safe_dump(teacher | common | {"kd": options}, sort_keys=False)


def _report(found: dict) -> list[str]:
    seeds = ", ".join(map(str, found["seeds"]))
    lines = [f"# Search {found['name']}", ""]
    lines += [f"Algorithm {found['algorithm']}, seeds {seeds}; chosen by BLEU on the validation set.", ""]
    lines += [f"**{found['older']}.**", ""] if found["older"] else []
    lines += ["| parameter | value | validation | |", "|---|---|---|---|"]
    for step in found["steps"]:
        for run in step["runs"]:
            values = ", ".join(str(run["configuration"][name]) for name in step["parameters"])
            score = _format(run["validation"], missing="failed")
            lines.append(f"| {', '.join(step['parameters'])} | {values} | {score} | {'chosen' * run['chosen']} |")
    for limit in found["limits"]:
        lines += ["", f"**{limit}**"]
    lines += ["", "## The choice on test data", "", *_finalists(found)]
    lines += ["", f"Chosen against robust on the test set: {_tested(found['tested'])}."]
    lines += ["", "## What a wrong choice costs at most", ""]
    lines += [
        "Validation BLEU of the best and the worst configuration of a group. The configurations of a group differ in "
        "this parameter alone. Each row shows the group with the largest difference, a maximum over the number of "
        "groups in the last column. So it is partly luck, and larger than the usual cost of a wrong choice.",
        "",
    ]
    lines += ["| parameter | best | worst | difference | groups |", "|---|---|---|---|---|"]
    for name, cost in found["costs"].items():
        lines.append(f"| {name} | {_cost(cost) if cost else '– | – | no two configurations differ in it alone | 0'} |")
    for failure in found["failed"]:
        lines += ["", f"Failed: {failure['stage']}, the end of its log:", "", "```text", failure["log"], "```"]
    return [*lines, "", "BLEU, mean ± standard deviation over seeds.", "", f"`{found['signature']}`"]


def _finalists(found: dict) -> list[str]:
    rows = found["finalists"]
    names = list(dict.fromkeys(option for row in rows.values() for option in row["options"]))
    lines = [f"| | {' | '.join(names)} | validation | test | chosen − this |", f"|{'---|' * (len(names) + 4)}"]
    best = rows["chosen"]["test"]
    for name, row in [*rows.items(), *((teacher["name"], teacher) for teacher in found["teachers"])]:
        cells = [name, *[str(row.get("options", {}).get(option, "")) for option in names]]
        cells += [_format(row["validation"]), _format(row["test"])]
        known = best is not None and row["test"] is not None and name != "chosen"
        cells.append(f"{best['mean'] - row['test']['mean']:+.2f}" if known else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cost(cost: dict) -> str:
    best, worst = (f"{cost[f'{end}_value']}: {cost[f'{end}_score']:.2f}" for end in ("best", "worst"))
    return f"{best} | {worst} | {cost['best_score'] - cost['worst_score']:.2f} | {cost['groups']}"


def _tested(tested: dict) -> str:
    if "not_tested" in tested:
        return f"not tested, {tested['not_tested']}"
    p = "no p, because the difference is the same for all seeds" if tested["p"] is None else f"p = {tested['p']:.4f}"
    by = f"{DECIDED_BY[tested['test']]}, {p}, alpha {CompareOptions().alpha:g}"
    return f"{tested['difference']:+.2f} BLEU, {tested['verdict']} (by {by})"


def _format(scores: dict | None, missing: str = "–") -> str:
    if scores is None:
        return missing
    return f"{scores['mean']:.2f}" + ("" if scores["sd"] is None else f" ± {scores['sd']:.2f}")

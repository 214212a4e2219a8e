"""From a spec to a checked plan. Errors that can be found without running anything are found here.

The program that will run a planned command also parses it here, so a misspelt option is found before anything runs.
"""

import argparse
import re
from itertools import pairwise
from pathlib import Path

from fairseq_kd.artifacts.records import read_record
from fairseq_kd.artifacts.writing import PROBE
from fairseq_kd.core.commands import load_command
from fairseq_kd.core.errors import KDError, prefixed_errors
from fairseq_kd.core.paths import check_new_data_bin
from fairseq_kd.federated.run import check_flower
from fairseq_kd.study.cells import make_cells
from fairseq_kd.study.maker import TRAININGS
from fairseq_kd.study.methods import FEDERATED, STUDENT_DECODE
from fairseq_kd.study.model_check import without_planned_like
from fairseq_kd.study.plan import PLAN_NAME, Plan
from fairseq_kd.study.sections import AGREEMENT
from fairseq_kd.study.spec import load_spec, spec_path
from fairseq_kd.study.stages import Stage
from fairseq_kd.study.state import SHOW, OlderStages
from fairseq_kd.training.arguments import parse_training, parse_words

PLAN_REMEDY = "remove it and run the study again, which writes it again"
STAGE_NAME = re.compile(r"[a-z-]+(-[0-9a-f]+){2}")
SECTIONS = {"prepare": "data", "student": "student or common", "teacher": "teacher or common"}


def check_commands(plan: Plan) -> None:
    """Parse every command of a plan. This package must be registered with fairseq.

    Raises KDError that names an unknown option with the nearest valid one, or a refused value.
    """
    if any(stage.kind == FEDERATED for stage in plan.stages.values()):
        check_flower()
    seen = set()
    for stage in plan.stages.values():
        if stage.kind == "init":  # its options are options of a student, which is checked
            continue
        by_student = stage.kind == "decode" and any(plan.stages[name].kind == "student" for name in stage.inputs)
        where = f"{plan.spec.path}: {STUDENT_DECODE if by_student else SECTIONS.get(stage.kind, stage.kind)}"
        same = (where, *_options_alone(stage, plan.stages))
        if same in seen and stage.kind != FEDERATED:  # its check looks at the stages that it names
            continue
        seen.add(same)
        check = _check_training if stage.kind in TRAININGS else _check_tool
        checked = check(where, stage.command[1:])
        if stage.kind == FEDERATED:
            _check_clients(plan, stage, checked)


def _options_alone(stage: Stage, stages: dict[str, Stage]) -> list[str]:
    """The command without its seed, and with numbers in place of the names of stages: parsing looks at neither.

    Most stages of a study differ in these alone, and fairseq takes 30 ms to parse a command.
    """
    numbers: dict[str, int] = {}

    def number(found: re.Match) -> str:
        name = found[0]
        return f"{stages[name].kind} {numbers.setdefault(name, len(numbers))}" if name in stages else name

    words = [STAGE_NAME.sub(number, word) for word in stage.command]
    return ["" if before == "--seed" and word.isdecimal() else word for before, word in pairwise(["", *words])]


def _check_training(where: str, words: list[str]) -> None:
    from fairseq_kd.criterions.planned import check_planned

    args = parse_training(where, without_planned_like(words))
    if args.criterion in ("kd_word", "kd_hybrid", "kd_mutual"):  # in every plan; tests parse other commands too
        with prefixed_errors(where):
            check_planned(args)


def _check_clients(plan: Plan, stage: Stage, spec) -> None:
    """Check the number of the clients, their trainings, and those of the server. spec: of the federated run `stage`."""
    from fairseq_kd.federated.plan import check_counts
    from fairseq_kd.federated.training import client_arguments, server_arguments, training_options

    languages, values, path = ("SOURCE", "TARGET"), spec.values, plan.spec.path
    divided = next(plan.stages[name].command for name in stage.inputs if plan.stages[name].kind == "partition")
    with prefixed_errors(f"{path}: {FEDERATED}"):
        check_counts(spec, int(divided[divided.index("--parts") + 1]))
    words = client_arguments("DATA", languages, training_options(values), values, 1, cpu=False)
    _check_training(f"{path}: student or common", words)
    if spec["server-kd"] is not None:
        words = server_arguments(languages, values, ["TEACHER"], 1, cpu=False)
        _check_training(f"{path}: server-kd, student or common", words)


def _check_tool(where: str, words: list[str]):
    """Return the options as the command constructs them; None for a command that does not."""
    name, *words = words
    command = load_command(name)
    parser = argparse.ArgumentParser(allow_abbrev=False)
    command.add_arguments(parser)
    args = parse_words(where, parser, lambda: parser.parse_known_args(words))
    if hasattr(command, "options_of"):  # commands that check values and combinations when they construct their options
        with prefixed_errors(where):
            return command.options_of(args)
    return None


def open_plan(spec, work, recipe=None, raw=None, old_stages: str | None = SHOW) -> Plan:
    """Read a spec, check every option of it, and plan it. Raises KDError; nothing is written.

    work: the folder of the study; it must hold a study, be empty, or not exist. old_stages: see `OlderStages`.
    """
    check_folder(Path(work))
    checked = load_spec(spec_path(spec), recipe, raw)
    held = read_record(work / PLAN_NAME, PLAN_REMEDY) or {}
    plan = Plan(checked, make_cells(checked), OlderStages(work, old_stages, held.get("stages", ())))
    check_commands(plan)
    _check_distinct(plan)
    _check_agreement(plan)
    return plan


def _check_distinct(plan: Plan) -> None:
    """Raises KDError for two cells with the same training and evaluations: they would look like separate results."""
    seen = {}
    for name, cell in plan.cells.items():
        first = seen.setdefault((cell["student"], *cell["results"].items()), name)
        if first != name:
            one, other = plan.cells[first]["factors"], cell["factors"]
            differ = [factor for factor in one | other if one.get(factor) != other.get(factor)]
            raise KDError(f"{plan.spec.path}: the cells {first} and {name} are the same experiment, because "
                          f"{' and '.join(differ)} has no effect there; take it out, or exclude one")  # fmt: skip


def _check_agreement(plan: Plan) -> None:
    """Raises KDError when students are to be compared with their teachers and none of them has a teacher."""
    asked = plan.spec.sections["evaluate"].get(AGREEMENT)
    evaluations = (plan.stages[name] for cell in plan.cells.values() for name in cell["results"].values())
    if asked and not any("--teacher" in stage.command for stage in evaluations):
        raise KDError(f"{plan.spec.path}: {AGREEMENT} in evaluate has no effect, because no student of the study has a "
                      "teacher; leave it out")  # fmt: skip


def check_same_study(plan: Plan, work: Path) -> None:
    """Raises KDError when `work` holds a study of the same name that shares no stage with the plan.

    Without this check `status` and `report` would show such a study as one that has not started.
    """
    held = read_record(work / PLAN_NAME, PLAN_REMEDY)
    if held is not None and held["name"] == plan.spec.name and not held["stages"].keys() & plan.stages.keys():
        raise KDError(f"{work} holds the study {plan.spec.name} with another recipe, with other data or of another "
                      "version of fairseq_kd: none of its stages is in this plan; give the --recipe and --raw of the "
                      "run, or another --out")  # fmt: skip


def check_folder(work: Path) -> None:
    """Raises KDError unless `work` holds a study, is empty or does not exist, and fairseq can use its path."""
    check_new_data_bin(work)
    if work.exists() and not (work / PLAN_NAME).is_file() and not _is_free(work):
        raise KDError(f"{work} exists and is not the folder of a study; choose another --out")


def _is_free(work: Path) -> bool:
    """Whether the folder is empty, except for files of a study that was killed before it wrote its plan."""
    begun = (".study.lock", f".{PLAN_NAME}.", PROBE)
    return work.is_dir() and all(path.name.startswith(begun) for path in work.iterdir())

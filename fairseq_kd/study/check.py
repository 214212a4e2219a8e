"""Every planned command is parsed by the program that will run it, so that a typo is found before anything runs.

From the name of a spec to a checked plan: all that can be refused is refused here, before anything runs.
"""

import argparse
import re
from pathlib import Path

from fairseq_kd.artifacts.manifest import PROBE
from fairseq_kd.artifacts.records import read_record
from fairseq_kd.core.commands import load_command
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_new_data_bin
from fairseq_kd.study.factors import make_cells
from fairseq_kd.study.plan import PLAN_NAME, TRAININGS, Plan
from fairseq_kd.study.spec import load_spec, spec_path
from fairseq_kd.study.state import SHOW, Older
from fairseq_kd.training.options import nearest

PLAN_REMEDY = "remove it and run the study again, which writes it again"
SECTIONS = {"prepare": "data", "student": "student or common", "teacher": "teacher or common"}


def check_commands(plan: Plan) -> None:
    """Raises KDError that names the option at fault and the nearest valid one, or the value that is refused.

    This package must be registered with fairseq.
    """
    for stage in plan.stages.values():
        where = f"{plan.spec.path}: {SECTIONS.get(stage.kind, stage.kind)}"
        check = _check_training if stage.kind in TRAININGS else _check_tool
        check(where, stage.command[1:])


class _Refusal(Exception):
    """What argparse would print before it exits."""


def _refuse(message: str):
    raise _Refusal(message)


def _check_training(where: str, words: list[str]) -> None:
    from fairseq import options

    from fairseq_kd.criterions.config import check_options

    parser = options.get_training_parser()
    at = words.index("--user-dir")
    args = _parse(where, parser, lambda: options.parse_args_and_arch(parser, [*words[:at], *words[at + 2 :]], True))
    if args.criterion == "kd_word":
        _with_place(where, lambda: check_options(args))


def _check_tool(where: str, words: list[str]) -> None:
    name, *words = words
    command = load_command(name)
    parser = argparse.ArgumentParser(allow_abbrev=False)
    command.add_arguments(parser)
    args = _parse(where, parser, lambda: parser.parse_known_args(words))
    if hasattr(command, "options_of"):  # the commands that check values and combinations when these are constructed
        _with_place(where, lambda: command.options_of(args))


def _parse(where: str, parser, parse):
    parser.error = _refuse
    try:
        args, unknown = parse()
    except _Refusal as error:
        raise KDError(f"{where}: {_shortened(str(error))}") from error
    if unknown:
        options = [word.lstrip("-") for word in parser._option_string_actions if word.startswith("--")]
        key = unknown[0].lstrip("-")
        raise KDError(f"{where}: unknown key {key!r}; the nearest valid one is {nearest(key, options)!r}")
    return args


def _shortened(message: str) -> str:
    """ "argument --arch/-a: invalid choice: 'x' (choose from ...)" -> the nearest choice only."""
    found = re.fullmatch(r"argument (\S+): invalid choice: '(.*?)' \(choose from (.*)\)", message, re.S)
    if not found:
        return message
    option, value, choices = found.groups()
    choices = [choice.strip("' ") for choice in choices.split(",")]
    return f"{option.split('/')[0]} {value}: unknown; the nearest valid one is {nearest(value, choices)!r}"


def _with_place(where: str, check) -> None:
    try:
        check()
    except KDError as error:
        raise KDError(f"{where}: {error}") from error


def open_plan(spec, work, recipe=None, raw=None, old_stages: str | None = SHOW) -> Plan:
    """Read a spec, check it down to the last option, and plan it. Raises KDError; nothing is written.

    work: the folder of the study, which must be one, or empty, or not there. old_stages: see `Older`.
    """
    check_folder(Path(work))
    checked = load_spec(spec_path(spec), recipe, raw)
    held = read_record(work / PLAN_NAME, PLAN_REMEDY) or {}
    plan = Plan(checked, make_cells(checked), Older(work, old_stages, held.get("stages", ())))
    check_commands(plan)
    _check_distinct(plan)
    return plan


def _check_distinct(plan: Plan) -> None:
    """Cells of one training that is measured in one way would be shown as separate results."""
    seen = {}
    for name, cell in plan.cells.items():
        first = seen.setdefault((cell["student"], *cell["results"].items()), name)
        if first != name:
            one, other = plan.cells[first]["factors"], cell["factors"]
            differ = [factor for factor in one | other if one.get(factor) != other.get(factor)]
            raise KDError(f"{plan.spec.path}: the cells {first} and {name} are the same experiment, for "
                          f"{' and '.join(differ)} has no effect there; take it out, or exclude one")  # fmt: skip


def check_same_study(plan: Plan, work: Path) -> None:
    """Raises KDError when `work` holds the study of that name with other stages: nothing of it would be found.

    The commands that only look are not to take it for one that has not begun.
    """
    held = read_record(work / PLAN_NAME, PLAN_REMEDY)
    if held is not None and held["name"] == plan.spec.name and not held["stages"].keys() & plan.stages.keys():
        raise KDError(f"{work} holds the study {plan.spec.name} with another recipe, with other data or of another "
                      "version of fairseq_kd: none of its stages is planned here; give --recipe and --raw as for the "
                      "run, or another --out")  # fmt: skip


def check_folder(work: Path) -> None:
    """Raises KDError unless `work` is the folder of a study, or empty, or not there, and fairseq can use its name."""
    check_new_data_bin(work)
    if work.exists() and not (work / PLAN_NAME).is_file() and not _is_free(work):
        raise KDError(f"{work} exists and is not the folder of a study; choose another --out")


def _is_free(work: Path) -> bool:
    """Whether nothing is there but what a study leaves that was killed before it wrote its plan."""
    begun = (".study.lock", f".{PLAN_NAME}.", PROBE)
    return work.is_dir() and all(path.name.startswith(begun) for path in work.iterdir())

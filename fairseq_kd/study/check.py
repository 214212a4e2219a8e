"""Every planned command is parsed by the program that will run it, so that a typo is found before anything runs."""

import argparse
import importlib
import re

from fairseq_kd.errors import KDError
from fairseq_kd.study.plan import TRAININGS, Plan
from fairseq_kd.training.options import nearest

SECTIONS = {"prepare": "data", "student": "student or common", "teacher": "teacher or common"}


def check_commands(plan: Plan) -> None:
    """Raises KDError that names the option at fault and the nearest valid one, or the value that is refused."""
    from fairseq_kd import register

    register()
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

    from fairseq_kd.criterions.options import check_options

    parser = options.get_training_parser()
    at = words.index("--user-dir")
    args = _parse(where, parser, lambda: options.parse_args_and_arch(parser, [*words[:at], *words[at + 2 :]], True))
    if args.criterion == "kd_word":
        _with_place(where, lambda: check_options(args))


def _check_tool(where: str, words: list[str]) -> None:
    name, *words = words
    command = importlib.import_module(f"fairseq_kd.cli.{name.replace('-', '_')}")
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

"""The sections of a spec: which program reads each of them, which keys it has, and which values it takes.

A section holds options of one program: of fairseq-train (common, teacher, student, kd) or of a command of fairseq-kd. A
study sets some options of these programs itself, so neither a section nor a factor may set them. The programs check
most values. The checks here are for values that a program would refuse late or with an unclear message.
"""

import argparse
import functools

from fairseq_kd.core.commands import load_command
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.yaml_file import check_keys, check_text, is_number, nearest
from fairseq_kd.training.arguments import PRECISION, RESERVED, check_precision, option_names

SECTIONS = ("recipe", "data", "partition", "common", "teacher", "student", "budget", "kd", "select", "cache", "decode")
SECTIONS += ("student-decode", "noise", "federated", "evaluate")
BUDGETS = ("teacher", "student")  # keys of budget, in updates
SHARES = ("delete", "substitute", "swap")  # how the three operations divide the noise level
NOISE_DEFAULTS = {"delete": 1, "substitute": 1, "swap": 1, "side": "source", "level": "word", "seed": 1}
AGREEMENT = "agreement"  # key of evaluate: whether each student is compared with its own teacher
EVALUATE_DEFAULTS = {"subsets": ["test"], "noise": [0]}
SEEDS = 2**31  # numpy takes slightly larger seeds, and fairseq adds the number of the epoch

# options that the study sets itself, by section
_OF_TRAININGS = (*RESERVED, "max-update")
_OF_TEACHER_RUNS = ("teacher", "out", "shard", "subset", "cpu")
_OF_CHANGES = ("compare-to", "parts", "change-threshold", "changes-plot", "show")  # the report compares results
_OF_ROUNDS = ("parts", "data", "recipe", "common", "student", "start", "seed", "evaluate", "stop-at-target")
_OF_CHOICES = ("select", "metric", "tokenize", "like")
SET_BY_STUDY = {
    "common": _OF_TRAININGS,
    "teacher": tuple(name for name in _OF_TRAININGS if name != "seed"),
    "student": _OF_TRAININGS,
    "kd": (*RESERVED, PRECISION),
    "cache": _OF_TEACHER_RUNS,
    "decode": (*_OF_TEACHER_RUNS, "tokenize", "like"),
    "student-decode": (*_OF_TEACHER_RUNS, *_OF_CHOICES, "teacher-data", "trust-checkpoint", "source-text", "seed"),
    "data": ("out",),
    "partition": ("prefix", "out", "split", "source-lang", "target-lang"),
    "evaluate": ("checkpoint", "subset", "out", "cpu", *_OF_CHANGES),
    "select": ("checkpoints", "by", "out", "cpu", "average", "out-checkpoint", "tokenize"),
    "noise": ("prefix", "data-bin", "subset", "out", "source-lang", "target-lang"),
    "federated": (*_OF_ROUNDS, "out", "app", "cpu", "user-dir"),
}
# options that a section may set, with one value for all cells
SAME_FOR_ALL_CELLS = {
    "evaluate": ("subsets", "noise", "tokenize", AGREEMENT),
    "data": ("raw", "name", "data-bin", "source-lang", "target-lang"),
    "federated": ("target", "subset"),
}
# option that the study sets -> what to do instead: (when it is in a section, when it is a factor)
_REMEDIES = {
    "max-update": ("give it in budget", "vary budget.student or budget.teacher"),
    "seed": ("give it as a factor", "vary seed, or teacher.seed"),
    "criterion": ("vary method", "vary method"),
    "tokenize": ("give it in evaluate", "give it in evaluate"),
    "by": ("vary teacher-choice", "vary teacher-choice"),
    "compare-to": ("leave it out: the report compares students with those from which they go on", "take it out"),
    "autocast": ("give precision in common, teacher or student", "vary precision"),
    PRECISION: ("give it in common, teacher or student", "vary precision"),
    "start": ("vary init", "vary init"),
}
# The commands of fairseq-kd that read a section, and the keys that the study itself reads there.
PROGRAMS = {
    "data": "prepare",
    "partition": "partition",
    "select": "select-teacher",
    "cache": "cache",
    "decode": "decode",
    "student-decode": "decode",
    "noise": "noise",
    "evaluate": "evaluate",
    "federated": "federated",
}
READ_BY_STUDY = {"data": ("name", "data-bin"), "evaluate": ("subsets", "noise", AGREEMENT)}
READ_BY_STUDY["federated"] = ("target", "subset", "every")
READ_BY_STUDY |= {"cache": ("folder",), "decode": ("data-bin",)}
# Settings that name an artefact which exists already -> what the study then does not do. The other options of the
# section have no effect.
EXISTING = {
    "teacher.checkpoint": "trains no teacher",
    "cache.folder": "makes no cache",
    "decode.data-bin": "decodes no targets",
}
SOURCE_TEXT = "decode.source-text"  # setting whose value is one file, or a list of files
MAPPINGS = ("federated.strategy", "federated.server-kd")  # settings whose value can be a mapping


@functools.cache
def valid_keys(section: str) -> tuple[str, ...] | None:
    """The keys that a section may have; None for options of fairseq-train, which depend on architecture and criterion.

    `check` lets fairseq parse those.
    """
    if section == "budget":
        return BUDGETS
    if section not in PROGRAMS:
        return None
    parser = argparse.ArgumentParser(add_help=False)
    load_command(PROGRAMS[section]).add_arguments(parser)
    options = [name for name in option_names(parser) if name not in SET_BY_STUDY[section]]
    return (*READ_BY_STUDY.get(section, ()), *options)


def check_section(path, section: str, given) -> None:
    """Raises KDError for a key that the section does not have, and for an option that the study sets itself."""
    check_keys(path, section, given, valid=tuple(given or ()))
    for key in given:
        if key in SET_BY_STUDY.get(section, ()):
            remedy = _REMEDIES.get(key, ("leave it out",))[0]
            raise KDError(f"{path}: {key} in {section} is set by the study; {remedy}")
        if key == PRECISION and section in ("common", *BUDGETS):
            check_precision(f"{path}: {key} in {section}", given[key])
    check_keys(path, section, given, valid=valid_keys(section) or tuple(given))


def check_factor_option(path, factor: str, section: str, option: str) -> None:
    """Raises KDError for a factor that sets an option which the section lacks, or which cannot differ between cells."""
    if option in SET_BY_STUDY.get(section, ()):
        remedy = _REMEDIES.get(option, ("", "take it out of the factors"))[1]
        raise KDError(f"{path}: the factor {factor} has no effect: {option} in {section} is set by the study; {remedy}")
    if option in SAME_FOR_ALL_CELLS.get(section, ()):
        raise KDError(
            f"{path}: {option} in {section} is the same for all cells, so it cannot be a factor; give it in {section}"
        )
    valid = valid_keys(section) if section else None
    if valid is not None and option not in valid:
        raise KDError(f"{path}: the factor {factor}: unknown key {option!r} in {section}; the nearest valid one is "
                      f"{nearest(option, valid)!r}")  # fmt: skip


def check_updates(path, where: str, value) -> None:
    """Raises KDError unless `value` is a number of updates from 1; for fairseq 0 means no limit."""
    if type(value) is not int or value < 1:
        raise KDError(f"{path}: {where} must be a whole number of updates from 1, found {value!r}")


def check_seed(path, where: str, value) -> None:
    """Raises KDError unless `value` is a seed that every library takes."""
    if type(value) is not int or not 0 <= value < SEEDS:
        raise KDError(f"{path}: {where} has the value {value!r}; seeds are whole numbers from 0 to below 2^31")


def check_noise_level(path, where: str, level) -> None:
    """Raises KDError unless `level` is a percentage of words."""
    if not is_number(level) or not 0 <= level <= 100:
        raise KDError(f"{path}: noise {level!r} in {where} must be a percentage of the words, from 0 to 100")


def check_mix(path, value) -> None:
    """Raises KDError unless `value` says how many times gold data are mixed with the teacher's targets."""
    if not is_number(value) or not 0 <= value < float("inf"):
        raise KDError(f"{path}: mix-gold in factors must be a number from 0, found {value!r}")


def check_shares(path, noise: dict) -> None:
    """Raises KDError unless the noise level can be divided among the three operations."""
    for name in SHARES:
        if not is_number(noise[name]) or not 0 <= noise[name] < float("inf"):
            raise KDError(f"{path}: {name} in noise is its share of the level, a number from 0, found {noise[name]!r}")
    if not any(noise[name] for name in SHARES):
        raise KDError(f"{path}: {', '.join(SHARES)} in noise are all 0, so no word would be changed; give one above 0")


def check_files(path, where: str, value) -> None:
    """Raises KDError unless `value` is the path of a file, or a list of such paths."""
    if not value:
        raise KDError(f"{path}: {where} must be a file or a list of files, found {value!r}: give one file or more")
    for file in value if isinstance(value, list) else [value]:
        check_text(path, where, file)

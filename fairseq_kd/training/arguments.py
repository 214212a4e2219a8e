"""Options in YAML as command lines: each key is the name of the option without the leading dashes (`max-tokens`)."""

import re
from argparse import Namespace

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import PACKAGE
from fairseq_kd.core.yaml_file import nearest

# cross-entropy with label smoothing: the loss of a distilled training with the weight 0 for the teacher
CROSS_ENTROPY = {"criterion": "kd_word", "kd-weight": 0}
PRECISION, PRECISIONS = "precision", ("float32", "bfloat16")  # a key of YAML files, and its values
# the quickstart, a study and a search set these options themselves
RESERVED = (
    *("save-dir", "seed", "criterion", "teacher", "user-dir", "source-lang", "target-lang", "total-num-update"),
    *("required-batch-size-multiple", "update-epoch-batch-itr", "no-epoch-checkpoints", "distributed-world-size"),
    *("cpu", "num-workers", "log-format", "log-interval", "autocast"),
)


def check_without_teacher(where: str, options: dict) -> None:
    """Check the options of a training by CROSS_ENTROPY. where: file and section, for the message.

    Raises KDError for options that only a training with a teacher can have; the checks of kd_word refuse the others.
    """
    for name in ("kd-weight", "teacher-cache"):
        if name in options:
            raise KDError(f"{where}: {name} has no effect on a training without a teacher; give it in kd")


def check_precision(where: str, value) -> None:
    """Raises KDError unless `value` is one of PRECISIONS. where: file and key, for the message."""
    if value not in PRECISIONS:
        raise KDError(f"{where} must be {' or '.join(PRECISIONS)}, found {value!r}; the nearest valid one is "
                      f"{nearest(value, PRECISIONS)!r}")  # fmt: skip


def to_arguments(options: dict) -> list[str]:
    """{"lr": 0.1, "cpu": True} -> ["--lr", "0.1", "--cpu"]; False omits a flag, a list gives several words."""
    arguments = []
    for name, value in options.items():
        if value is True:
            arguments.append(f"--{name}")
        elif isinstance(value, list):
            arguments += [f"--{name}", *map(str, value)]
        elif value is not False:
            arguments += [f"--{name}", str(value)]
    return arguments


def training_arguments(data_bin, source_lang, target_lang, options: dict, *, cpu=False, user_dir=PACKAGE) -> list[str]:
    """The arguments of fairseq-train for one model, without --save-dir; options has max-update, seed, criterion.

    The key `precision` becomes an option of the criterion, and float32 becomes no option. A training of several parts
    gives total-num-update, which is max-update for others.
    """
    options = {"user-dir": user_dir, "source-lang": source_lang, "target-lang": target_lang} | options
    if (precision := options.pop(PRECISION, PRECISIONS[0])) != PRECISIONS[0]:
        options["autocast"] = precision
    if options.get("lr-scheduler") == "polynomial_decay":
        options.setdefault("total-num-update", options["max-update"])
    # fairseq's default of 8 silently drops up to 7 of the longest sentences, of the validation set too
    options |= {"required-batch-size-multiple": 1, "no-epoch-checkpoints": True, "distributed-world-size": 1}
    # By default fairseq keeps the batches of the epoch in which a process starts, so a continued run would have others.
    options["update-epoch-batch-itr"] = "True"
    options |= {"cpu": cpu, "num-workers": 0, "log-format": "json", "log-interval": 10}
    return [str(data_bin), *to_arguments(options)]


def parse_training(where: str, arguments: list[str]) -> Namespace:
    """Parse the arguments of fairseq-train with fairseq's own parser, without loading the --user-dir again.

    where: file and section, for messages. This package must be registered with fairseq.
    Raises KDError for an unknown option (with the nearest valid one), and for a value that fairseq refuses.
    """
    from fairseq import options

    parser, at = options.get_training_parser(), arguments.index("--user-dir")
    arguments = [*arguments[:at], *arguments[at + 2 :]]
    return parse_words(where, parser, lambda: options.parse_args_and_arch(parser, arguments, parse_known=True))


def parse_words(where: str, parser, parse) -> Namespace:
    """The result of `parse()`, which uses the parser and returns (arguments, unknown words).

    Raises KDError, see `parse_training`.
    """
    parser.error = _refuse
    try:
        args, unknown = parse()
    except _RefusalError as error:
        raise KDError(f"{where}: {_shorten(str(error))}") from error
    if unknown:
        key = unknown[0].lstrip("-")
        raise KDError(f"{where}: unknown key {key!r}; the nearest valid one is {nearest(key, option_names(parser))!r}")
    return args


def option_names(parser) -> list[str]:
    """The long options of a parser, without leading dashes."""
    return [word[2:] for word in parser._option_string_actions if word.startswith("--")]


class _RefusalError(Exception):
    """The message that argparse would print before it ends the process."""


def _refuse(message: str):
    raise _RefusalError(message)


def _shorten(message: str) -> str:
    """Replace the list of choices in "argument --arch/-a: invalid choice: 'x' (choose from ...)" by the nearest one."""
    found = re.fullmatch(r"argument (\S+): invalid choice: '(.*?)' \(choose from (.*)\)", message, re.S)
    if not found:
        return message
    option, value, choices = found.groups()
    choices = [choice.strip("' ") for choice in choices.split(",")]
    return f"{option.split('/')[0]} {value}: unknown; the nearest valid one is {nearest(value, choices)!r}"

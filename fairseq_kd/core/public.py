"""What the packages offer to Python: names that are loaded on first use, and errors that speak of arguments.

A message of a KDError names a setting as the commands do: `--swap-window 3`. This form is unambiguous, so one text
serves both kinds of callers. The commands print it as it is. A public function of Python replaces the names of its own
arguments: `swap_window 3`. A command that a message quotes, such as `fairseq-kd cache --top-k 8`, keeps its options.
"""

import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable

from fairseq_kd.core.errors import KDError

OPTION = re.compile(r"--([a-z][a-z0-9-]*)")
COMMAND = re.compile(r"(`[^`]*`|\bfairseq-[\w-]+(?: [^\s;,:()]+)*)")


def lazily(package: str, places: dict[str, str]) -> tuple[list[str], Callable, Callable]:
    """(__all__, __getattr__, __dir__) of a package that imports its public names on first use (PEP 562).

    package: its name. places: public name -> the module of the package that defines it.
    A public name must not be the name of a module of the package: after an import of this module it would mean the
    module.
    """

    def getattr_(name: str):
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{places[name]}"), name)

    def dir_() -> list[str]:
        return sorted({*vars(sys.modules[package]), *places})

    return list(places), getattr_, dir_


def errors_name_arguments(**options: str):
    """Decorator: a KDError that leaves the function names the function's arguments, not the options of the commands.

    An argument `swap_window` is the option --swap-window. options: argument -> option without dashes, where the two
    have different names.
    """

    def decorate(function):
        names = {name.replace("_", "-"): name for name in inspect.signature(function).parameters}
        names |= {option: name for name, option in options.items()}

        @functools.wraps(function)
        def call(*args, **kwargs):
            try:
                return function(*args, **kwargs)
            except KDError as error:
                given = {name.replace("_", "-"): name for name in kwargs}
                error.args = (naming_arguments(str(error), given | names), *error.args[1:])
                raise

        return call

    return decorate


def naming_arguments(text: str, names: dict[str, str]) -> str:
    """A message with arguments in the place of options. names: option without dashes -> argument."""
    parts = COMMAND.split(text)  # text, command, text, ...
    parts[::2] = [OPTION.sub(lambda found: names.get(found[1], found[0]), part) for part in parts[::2]]
    return "".join(parts)


def check_lines(name: str, lines) -> None:
    """Raises KDError when an argument that takes a list of lines is one text: its characters would be the lines."""
    if isinstance(lines, str):
        raise KDError(f"{name} is one text, and its characters would count as lines: give a list of lines")

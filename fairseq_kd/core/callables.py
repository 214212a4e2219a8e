"""Functions of the user, named on the command line as MODULE:CALLABLE. The user named them, so they are imported."""

import contextlib
import pkgutil
import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from fairseq_kd.core.errors import KDError

PLACE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def import_callable(option: str, place: str) -> Callable:
    """The function at MODULE:CALLABLE. option: names it in messages, such as --qe.

    Raises KDError for text of another form, when the import fails, and for something that cannot be called.
    """
    if PLACE.fullmatch(place) is None:
        raise KDError(f"{option} {place}: must be MODULE:CALLABLE")
    try:
        function = pkgutil.resolve_name(place)
    except Exception as error:  # the code of the module can raise anything
        raise KDError(
            f"{option} {place} cannot be imported ({reason(error)}): install its package, or correct the name"
        ) from error
    if not callable(function):
        raise KDError(f"{option} {place} is {type(function).__name__}, not a function: give MODULE:CALLABLE")
    return function


def signature(place: str) -> str:
    """MODULE:CALLABLE, and the version of its package where it has one."""
    with contextlib.suppress(PackageNotFoundError):
        return f"{place}|version:{version(place.split('.')[0].split(':')[0])}"
    return place


def reason(error: Exception) -> str:
    """An error of the user's code in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]

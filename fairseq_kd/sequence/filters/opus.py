"""Filters of the package OpusFilter (Aulamo et al. 2020), by the name of their class: --opusfilter CLASS:JSON.

A filter gets pairs of detokenised text and decides for each pair on its own. Its parameters are those of the class, as
JSON. The package is an extra, because it installs some thirty others; nothing else here needs it.
"""

import logging
from collections.abc import Callable
from importlib.metadata import version

from fairseq_kd.core.callables import reason
from fairseq_kd.core.errors import KDError
from fairseq_kd.sequence.selection_options import opusfilter_of


class OpusRule:
    """One filter. Raises KDError when the package or the class is missing, and for parameters that it does not take."""

    def __init__(self, text: str):
        """text: CLASS or CLASS:JSON."""
        self.text = text
        name, parameters = opusfilter_of(text)
        self.name = f"opusfilter_{name}"
        kind = _class_of(name)
        try:
            self._filter = _without_warnings(lambda: kind(**parameters))
        except (Exception, SystemExit) as error:  # the constructors of the package raise anything
            raise KDError(f"--opusfilter {text} cannot be used ({reason(error)}): correct its parameters") from error
        if unknown := getattr(self._filter, "kwargs", None):
            raise KDError(f"--opusfilter {text}: {name} has no parameter {min(unknown)}: see the pages of OpusFilter")

    def drops(self, source: str, target: str) -> bool:
        """Whether the filter rejects the pair. Raises KDError when it fails."""
        try:
            return not self._filter.accept(next(iter(self._filter.score([(source, target)]))))
        except Exception as error:
            raise KDError(
                f"--opusfilter {self.text} failed on the pair {source[:60]!r} and {target[:60]!r} ({reason(error)}): "
                "correct its parameters, or leave it out"
            ) from error


def opusfilter_version() -> str:
    """The version of the package. Raises KDError when it is missing."""
    _module()
    return version("opusfilter")


def _module():
    try:
        from opusfilter import filters
    except ImportError as error:
        raise KDError(
            f"--opusfilter needs the package OpusFilter ({error}): pip install 'fairseq_kd[opusfilter]'"
        ) from error
    return filters


def _class_of(name: str) -> type:
    filters = _module()
    found = getattr(filters, name, None)
    if not (isinstance(found, type) and issubclass(found, filters.FilterABC)) or found is filters.FilterABC:
        known = sorted(
            key
            for key, kind in vars(filters).items()
            if isinstance(kind, type) and issubclass(kind, filters.FilterABC) and kind is not filters.FilterABC
        )
        raise KDError(f"--opusfilter {name}: must be one of {', '.join(known)}")
    return found


def _without_warnings(make: Callable):
    """Call make(). The package logs parameters that it ignores; `OpusRule` reports them as an error."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return make()
    finally:
        logger.setLevel(level)

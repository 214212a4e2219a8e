"""One function over many lines, in this process or in several; the order of the lines is kept."""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator

_function = None


@contextlib.contextmanager
def map_lines(function: Callable[[str], str], workers: int) -> Iterator[Callable[[list[str]], list[str]]]:
    """Yield a function from lines to lines that applies `function` to each, in `workers` processes if more than one.

    `function` must be picklable. What it returns must depend on its line alone.
    """
    if workers == 1:
        yield lambda lines: [function(line) for line in lines]
        return
    with multiprocessing.get_context("spawn").Pool(workers, _initialise, (function,)) as pool:
        yield lambda lines: pool.map(_apply, lines, chunksize=max(1, len(lines) // (4 * workers)))


def _initialise(function) -> None:
    global _function
    _function = function


def _apply(line: str) -> str:
    return _function(line)

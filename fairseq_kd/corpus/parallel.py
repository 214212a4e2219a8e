"""One function over many lines, in this process or in several; the order of the lines is kept."""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator

_function = None


@contextlib.contextmanager
def map_lines(function: Callable[[str], str], workers: int) -> Iterator[Callable[[list[str]], list[str]]]:
    """Yield a function from lines to lines that applies `function` to each, in `workers` processes if more than one.

    What `function` returns must depend on its line alone. Processes are forked, as those of fairseq-preprocess are:
    started anew, each would first import torch and fairseq.
    """
    if workers == 1:
        yield lambda lines: [function(line) for line in lines]
        return
    with multiprocessing.get_context("fork").Pool(workers, _initialise, (function,)) as pool:
        yield lambda lines: pool.map(_apply, lines, chunksize=max(1, len(lines) // (4 * workers)))


def _initialise(function) -> None:
    global _function
    _function = function


def _apply(line: str) -> str:
    return _function(line)

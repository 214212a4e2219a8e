"""Quality estimation by a function of the user: `fairseq-kd decode --qe MODULE:CALLABLE`.

The function is called with two lists of detokenised text, sources and hypotheses, and returns one finite number per
pair: larger is better. It is imported and run because the user named it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fairseq_kd.core.callables import import_callable, reason, signature
from fairseq_kd.core.errors import KDError


@dataclass(frozen=True)
class Estimator:
    """place: MODULE:CALLABLE."""

    place: str
    function: Callable

    @classmethod
    def load(cls, place: str | None) -> "Estimator | None":
        """Import the function; None without one. Raises KDError as `import_callable`."""
        return None if place is None else cls(place, import_callable("--qe", place))

    def __call__(self, sources: list[str], hypotheses: list[str]) -> list[float]:
        """One number per pair. Raises KDError when the function fails or returns something else."""
        if not hypotheses:
            return []
        try:
            answer = self.function(list(sources), list(hypotheses))
        except Exception as error:  # the user's code can raise anything
            raise KDError(f"--qe {self.place} failed ({reason(error)}): correct it, or leave it out") from error
        try:
            found = np.asarray(answer, dtype=np.float64)
        except (TypeError, ValueError) as error:
            found, why = None, reason(error)
        else:
            finite = np.isfinite(found).all()
            why = None if finite and found.shape == (len(hypotheses),) else _found(found, len(hypotheses))
        if why is not None:
            raise KDError(f"--qe {self.place} must return one finite number per pair ({why}): correct it")
        return found.tolist()

    def describe(self) -> dict:
        """For the manifest."""
        return {"qe": signature(self.place)}


def _found(numbers: np.ndarray, count: int) -> str:
    if numbers.shape != (count,):
        return f"it returned numbers of shape {numbers.shape} for {count} pairs"
    at = int(np.flatnonzero(~np.isfinite(numbers))[0])
    return f"number {at} is {numbers[at]}"

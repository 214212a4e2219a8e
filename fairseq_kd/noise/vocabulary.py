"""The units of a corpus, how often each occurs, and substitutes drawn from them."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fairseq_kd.errors import KDError
from fairseq_kd.noise.units import Units


def count_units(units: Units, counts: Counter) -> None:
    """Add how often each unit (bytes) of a block occurs to `counts`."""
    found = pc.value_counts(units.pieces().take(pa.array(np.arange(1, 2 * len(units), 2))))
    for unit, count in zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True):
        counts[unit] += count


@dataclass(frozen=True)
class Vocabulary:
    """Units and the cumulative probability up to each, the most frequent first."""

    units: pa.Array  # binary (types,)
    cumulative: np.ndarray  # float64 (types,)

    @classmethod
    def of(cls, counts: Counter, substitute_from: str, where: str) -> "Vocabulary":
        """From counts, by frequency ("unigram") or all alike ("uniform").

        where: of messages. Raises KDError when there is no second unit to substitute by.
        """
        if len(counts) < 2:
            raise KDError(
                f"{where} holds {len(counts)} different units: there is nothing to substitute by, since a unit is "
                "never replaced by itself; leave --substitute out"
            )
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))  # whatever order they were counted in
        weights = np.array([count for _, count in ordered], dtype=np.float64)
        if substitute_from == "uniform":
            weights[:] = 1
        cumulative = np.cumsum(weights)
        return cls(pa.array([unit for unit, _ in ordered], type=pa.binary()), cumulative / cumulative[-1])

    def draw(self, replaced: pa.Array, rng: np.random.Generator) -> pa.Array:
        """A substitute for each of the units `replaced`, never the same one.

        By the distribution without the unit itself: where it was drawn, a second draw leaves its share out.
        """
        # searched in order, which is faster, then put out of order again
        numbers = self._at(np.sort(rng.random(len(replaced))))[rng.permutation(len(replaced))]
        drawn = self.units.take(pa.array(numbers))
        same = np.flatnonzero(pc.equal(drawn, replaced))
        if len(same) == 0:
            return drawn
        own = numbers[same]
        below = np.where(own > 0, self.cumulative[own - 1], 0.0)
        share = self.cumulative[own] - below
        again = rng.random(len(same)) * (1 - share)
        other = self._at(np.where(again < below, again, again + share))
        other += np.where(other == own, np.where(own == len(self.cumulative) - 1, -1, 1), 0)  # by rounding
        numbers[same] = other
        return self.units.take(pa.array(numbers))

    def _at(self, values: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.cumulative, values, side="right").clip(max=len(self.cumulative) - 1)

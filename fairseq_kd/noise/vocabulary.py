"""The units of a corpus, how often each occurs, and substitutes drawn from them."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fairseq_kd.core.errors import KDError
from fairseq_kd.noise.units import Units


def count_units(units: Units) -> pa.Table:
    """How often each unit of a block occurs that is not protected: columns unit (binary) and count (int64)."""
    found = pc.value_counts(units.pieces().take(pa.array(2 * units.free() + 1)))
    return pa.table({"unit": found.field("values"), "count": found.field("counts")})


def add_counts(tables: list[pa.Table]) -> pa.Table:
    """One table of several, each unit once."""
    added = pa.concat_tables(tables).group_by("unit", use_threads=False).aggregate([("count", "sum")])
    return pa.table({"unit": added["unit"], "count": added["count_sum"]})


@dataclass(frozen=True)
class Vocabulary:
    """Units by frequency. Those of the same frequency form a class, so that a draw searches a few thousand classes.

    A draw is the number of an occurrence; those of a class follow one another, and within it those of a unit.
    units: binary (types,), the most frequent first. The others are int64 (classes,).
    """

    units: pa.Array
    frequency: np.ndarray  # of each unit of a class
    first_unit: np.ndarray
    first_occurrence: np.ndarray
    occurrences: int  # of all units

    @classmethod
    def of(cls, counts: pa.Table, substitute_from: str, where: str) -> "Vocabulary":
        """From the counts of `add_counts`: by frequency ("unigram") or all alike ("uniform").

        where: of messages. Raises KDError when there is no second unit to substitute by.
        """
        if len(counts) < 2:
            raise KDError(
                f"{where} holds {len(counts)} different units: there is nothing to substitute by, since a unit is "
                "never replaced by itself; leave --substitute out"
            )
        counts = counts.sort_by([("count", "descending"), ("unit", "ascending")]).combine_chunks()
        frequencies = counts["count"].to_numpy() if substitute_from == "unigram" else np.ones(len(counts), np.int64)
        first_unit = np.flatnonzero(np.diff(frequencies, prepend=0))
        before = np.cumsum(frequencies) - frequencies
        units = counts["unit"].chunk(0)
        return cls(units, frequencies[first_unit], first_unit, before[first_unit], int(frequencies.sum()))

    def draw(self, replaced: pa.Array, rng: np.random.Generator) -> pa.Array:
        """A substitute for each of the units `replaced`, never the same one.

        By the distribution without the unit itself: where it was drawn, a second draw leaves its occurrences out.
        """
        numbers, own_class = self._units_at(rng.integers(self.occurrences, size=len(replaced)))
        drawn = self.units.take(pa.array(numbers))
        same = np.flatnonzero(pc.equal(drawn, replaced))
        if len(same) == 0:
            return drawn
        own = own_class[same]
        share = self.frequency[own]
        begin = self.first_occurrence[own] + (numbers[same] - self.first_unit[own]) * share
        others = rng.integers(self.occurrences - share)
        numbers[same], _ = self._units_at(np.where(others < begin, others, others + share))
        return self.units.take(pa.array(numbers))

    def _units_at(self, occurrences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(numbers of units, their classes)."""
        classes = np.searchsorted(self.first_occurrence, occurrences, side="right") - 1
        within = (occurrences - self.first_occurrence[classes]) // self.frequency[classes]
        return self.first_unit[classes] + within, classes

"""Correlations over few units, such as the teachers of a study: coefficient, bootstrap interval, permutation test.

For n units with values x and y:

    Pearson     sum of (x - mean x)(y - mean y) / sqrt(sum of (x - mean x)² · sum of (y - mean y)²)
    Spearman    Pearson of the ranks; equal values have the mean of their ranks
    interval    2.5th and 97.5th percentile over resamples of the n units with replacement. Resamples in which x or y
                does not vary have no coefficient and are left out
    p           share of the orders of y whose |coefficient| is at least the observed one: all n! orders up to
                `EXACT` units, otherwise `TRIALS` random ones, with (count + 1) / (TRIALS + 1)

Sources: Efron & Tibshirani 1993, chapters 13 and 15; Spearman 1904. The draws have a fixed seed.
"""

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np

from fairseq_kd.evaluation.significance import ROUNDING

FEWEST = 4  # units: with 3 of them even the largest coefficient has p = 1/3
EXACT = 8
TRIALS = 9_999
RESAMPLES = 10_000
SEED = 12345
TAILS = (0.025, 0.975)


@dataclass(frozen=True)
class Correlation:
    """A coefficient from -1 to 1, its 95 % interval, and the two-sided p of a permutation test."""

    value: float
    interval: tuple[float, float]
    p: float

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:+.2f} ({low:+.2f} to {high:+.2f})"


def pearson(x, y) -> Correlation | None:
    """The correlation of two sequences of numbers (n,); None below `FEWEST` units, and where x or y does not vary."""
    return _correlate(np.asarray(x, dtype=float), np.asarray(y, dtype=float), lambda values: values)


def spearman(x, y) -> Correlation | None:
    """The rank correlation; see `pearson`."""
    return _correlate(np.asarray(x, dtype=float), np.asarray(y, dtype=float), _ranks)


def smallest_p(units: int) -> float:
    """The smallest p that the test can give for `units` units without equal values: the order and its reverse."""
    return 2 / math.factorial(units) if units <= EXACT else 1 / (TRIALS + 1)


def line_through(x, y) -> tuple[float, float]:
    """(slope, intercept) of the least-squares line."""
    slope, intercept = np.polyfit(x, y, 1)
    return float(slope), float(intercept)


def _correlate(x: np.ndarray, y: np.ndarray, prepare) -> Correlation | None:
    """prepare: values (..., n) -> the values whose Pearson correlation is wanted."""
    if len(x) < FEWEST or _constant(x) or _constant(y):
        return None
    value = float(_coefficient(prepare(x), prepare(y)))
    drawn = np.random.default_rng(SEED).integers(len(x), size=(RESAMPLES, len(x)))
    resampled = _coefficient(prepare(x[drawn]), prepare(y[drawn]))
    low, high = np.quantile(resampled[np.isfinite(resampled)], TAILS)
    return Correlation(value, (float(low), float(high)), _permutation_p(prepare(x), prepare(y), abs(value)))


def _permutation_p(x: np.ndarray, y: np.ndarray, observed: float) -> float:
    exact = len(x) <= EXACT
    found = np.abs(_coefficient(x, y[_all_orders(len(y)) if exact else _some_orders(len(y))]))
    count = int((found >= observed - ROUNDING).sum())
    return count / len(found) if exact else (count + 1) / (len(found) + 1)


@functools.cache
def _all_orders(units: int) -> np.ndarray:
    """All orders of the numbers below `units`: (n!, n)."""
    return np.array(list(itertools.permutations(range(units))), dtype=np.int8)


def _some_orders(units: int) -> np.ndarray:
    return np.random.default_rng(SEED).permuted(np.tile(np.arange(units), (TRIALS, 1)), axis=1)


def _coefficient(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's coefficient of the last axes, from -1 to 1; nan where one of them does not vary."""
    varies = (np.ptp(x, axis=-1) > 0) & (np.ptp(y, axis=-1) > 0)
    x, y = (values - values.mean(axis=-1, keepdims=True) for values in (x, y))
    scale = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    found = (x * y).sum(axis=-1) / np.where(varies, scale, 1)
    return np.where(varies, np.clip(found, -1, 1), np.nan)


def _ranks(values: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return rankdata(values, axis=-1)


def _constant(values: np.ndarray) -> bool:
    return bool(np.ptp(values) <= ROUNDING * max(1.0, np.abs(values).max()))

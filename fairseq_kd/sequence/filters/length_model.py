"""The length of a target given the length of its source, fitted to pairs so that outliers have little weight.

A target of t tokens of a source of s tokens has the mean a + b s and the variance v s + 1/12. The variance grows with
the length as in Gale & Church 1993; 1/12 is the variance of rounding to whole tokens.
"""

from dataclasses import asdict, dataclass

import numpy as np

from fairseq_kd.core.errors import KDError

HUBER = 1.345  # standard deviations from which a pair loses weight
TUKEY = 4.685  # standard deviations from which a pair has no weight; both: 95 % efficiency for normal errors
MAD = 1.4826  # standard deviation / median absolute deviation, of normal errors
ROUNDING = 1 / 12
ROUNDS, FIRST_ROUNDS = 50, 15
LEAST = 10  # pairs


@dataclass(frozen=True)
class LengthModel:
    """intercept: a, in tokens. slope: b. variance: v, per token of the source. pairs: how many it was fitted to."""

    intercept: float
    slope: float
    variance: float
    pairs: int

    def deviation(self, source: int, target: int) -> float:
        """How many standard deviations the target is longer (positive) or shorter (negative) than expected."""
        expected = self.intercept + self.slope * source
        return (target - expected) / (self.variance * source + ROUNDING) ** 0.5

    def as_dict(self) -> dict:
        """For the manifest."""
        return asdict(self)


def fit_lengths(source: np.ndarray, target: np.ndarray) -> LengthModel:
    """Fit to the lengths (pairs,) of both sides, in tokens without EOS; pairs with an empty side do not count.

    Iteratively reweighted least squares, with Huber's weights and then with Tukey's, which are 0 for outliers. The
    scale is the median absolute deviation. Equal pairs of lengths are one point.
    Raises KDError for fewer than 10 pairs.
    """
    filled = (source > 0) & (target > 0)
    if (pairs := int(filled.sum())) < LEAST:
        raise KDError(
            f"--max-length-deviation: {pairs} gold pairs without an empty side are too few to fit lengths, {LEAST} are "
            "needed: leave the option out, or give --max-length-ratio"
        )
    points, counts = np.unique(np.stack([source[filled], target[filled]]), axis=1, return_counts=True)
    s, t = points.astype(np.float64)
    weights = counts / s  # the variance of a point is proportional to s
    for number in range(ROUNDS):
        intercept, slope = _line(s, t, weights)
        errors = np.abs(t - intercept - slope * s) / np.sqrt(s)
        sigma = MAD * _weighted_median(errors, counts)
        errors = errors / np.sqrt(sigma**2 + ROUNDING / s)
        tukey = (1 - np.minimum(errors / TUKEY, 1) ** 2) ** 2
        weights = counts / s * (HUBER / np.maximum(errors, HUBER) if number < FIRST_ROUNDS else tukey)
    return LengthModel(float(intercept), float(slope), float(sigma**2), pairs)


def _line(s: np.ndarray, t: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """(intercept, slope) of weighted least squares; of sources of one length a line through the origin."""
    total = weights.sum()
    mean_s, mean_t = (weights * s).sum() / total, (weights * t).sum() / total
    spread = (weights * (s - mean_s) ** 2).sum()
    if spread == 0:
        return 0.0, mean_t / mean_s
    slope = (weights * (s - mean_s) * (t - mean_t)).sum() / spread
    return mean_t - slope * mean_s, slope


def _weighted_median(values: np.ndarray, counts: np.ndarray) -> float:
    """The median of values that occur so often, the lower one of two."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(counts[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])

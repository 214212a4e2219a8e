"""Estimates of differences and other statistics, from several seeds or from resampled segments.

An estimate answers the questions of a test: which values are compatible with it (p, interval), and how large a
difference it would have found (power).
"""

from dataclasses import dataclass

import numpy as np

ALPHA = 0.05  # level of significance
POWER = 0.8  # probability with which a detectable difference is found
CONFIDENCE = 0.95  # of intervals
ROUNDING = 1e-9
POINTS = 4000  # of the distribution of the observed scatter; power is then exact to three digits


@dataclass(frozen=True)
class Estimate:
    """A statistic with its scatter.

    error: its standard error; 0 where the statistic is the same for all seeds up to rounding. degrees: of freedom of
    its t distribution; None for a bootstrap. size: number of seeds or segments. resampled: the statistic of each
    resample (n,) of a bootstrap, else None.
    """

    value: float
    error: float
    degrees: float | None
    size: int
    resampled: np.ndarray | None = None

    @property
    def sample(self) -> str:
        """The sample in words, such as "3 seeds"."""
        return f"{self.size:,} {'segments' if self.degrees is None else 'seeds'}"

    @property
    def test(self) -> str:
        """The test in words."""
        return f"{'paired bootstrap' if self.degrees is None else 'paired t-test'} over {self.sample}"

    def above(self, bound: float = 0.0) -> float | None:
        """One-sided p of the null hypothesis that the true value is at most `bound`; None without scatter."""
        if self.error == 0:
            return None
        if self.resampled is not None:
            counted = self.resampled <= bound + ROUNDING
            return (int(counted.sum()) + 1) / (counted.size + 1)
        from scipy.stats import t

        return float(t.sf((self.value - bound) / self.error, self.degrees))

    def below(self, bound: float = 0.0) -> float | None:
        """One-sided p of the null hypothesis that the true value is at least `bound`; None without scatter."""
        return self._mirrored().above(-bound)

    def beside(self, bound: float = 0.0) -> float | None:
        """Two-sided p of the null hypothesis that the true value is `bound`; None without scatter."""
        if self.error == 0:
            return None
        return min(1.0, 2 * min(self.above(bound), self.below(bound)))

    def within(self, margin: float) -> float | None:
        """p of two one-sided tests: the null hypothesis is that the true value is at least `margin` away from 0.

        Source: Schuirmann 1987. None without scatter.
        """
        return None if self.error == 0 else max(self.above(-margin), self.below(margin))

    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval: of the t distribution, or the percentiles of the resamples; None without scatter."""
        if self.error == 0:
            return None
        tail = (1 - CONFIDENCE) / 2
        if self.resampled is not None:
            low, high = np.quantile(self.resampled, (tail, 1 - tail))
            return float(low), float(high)
        half = _critical(tail, self.degrees) * self.error
        return self.value - half, self.value + half

    def detectable(self, level: float) -> float | None:
        """The smallest difference that a two-sided test at `level` finds with the probability POWER.

        The true scatter is taken to be the observed one. None without scatter. Over seeds the test statistic has the
        noncentral t distribution, over segments it is taken to be normal.
        """
        from scipy.stats import norm

        critical = _critical(level / 2, self.degrees)
        return self._smallest(lambda at, s: norm.cdf(at - critical * s) + norm.cdf(-at - critical * s))

    def smallest_margin(self, level: float) -> float | None:
        """The smallest margin that two one-sided tests at `level` show with the probability POWER if the value is 0."""
        from scipy.stats import norm

        critical = _critical(level, self.degrees)
        return self._smallest(lambda at, s: np.maximum(0, 2 * norm.cdf(at - critical * s) - 1))

    def _smallest(self, found) -> float | None:
        """The smallest difference d for which the mean of found(d / error, s) is POWER.

        s: the ratios of observed to true scatter that are equally probable, from a chi-squared distribution. This is
        the noncentral t distribution by its definition; scipy's `nct` returns nan for some values of few seeds.
        """
        from scipy.optimize import brentq
        from scipy.stats import chi2

        if self.error == 0:
            return None
        ranks = (np.arange(POINTS) + 0.5) / POINTS
        ratios = np.ones(1) if self.degrees is None else np.sqrt(chi2.ppf(ranks, self.degrees) / self.degrees)
        most = 1.0
        while found(most, ratios).mean() < POWER:
            most *= 2
        return float(brentq(lambda at: found(at, ratios).mean() - POWER, 0, most)) * self.error

    def _mirrored(self) -> "Estimate":
        resampled = None if self.resampled is None else -self.resampled
        return Estimate(-self.value, self.error, self.degrees, self.size, resampled)


def over_seeds(values) -> Estimate:
    """The mean of a statistic that was measured once per seed; at least two seeds."""
    values = np.asarray(values, dtype=float)
    constant = np.ptp(values) <= ROUNDING * max(1.0, np.abs(values).max())
    error = 0.0 if constant else float(values.std(ddof=1) / len(values) ** 0.5)
    return Estimate(float(values.mean()), error, len(values) - 1, len(values))


def intervals_over_seeds(values: np.ndarray) -> np.ndarray:
    """The 95 % intervals (2, n) of the means of n statistics. values: one column per seed (n, seeds)."""
    seeds = values.shape[1]
    half = _critical((1 - CONFIDENCE) / 2, seeds - 1) * values.std(axis=1, ddof=1) / seeds**0.5
    return values.mean(axis=1) + np.array([-half, half])


def over_segments(value: float, resampled, segments: int) -> Estimate:
    """A statistic of all segments, with its values in the resamples of a bootstrap over segments (n,).

    Source: Efron & Tibshirani 1993, chapters 13 and 15 (percentiles).
    """
    resampled = np.asarray(resampled, dtype=float)
    error = 0.0 if np.ptp(resampled) <= ROUNDING else float(resampled.std())
    return Estimate(float(value), error, None, segments, resampled)


def _critical(tail: float, degrees: float | None) -> float:
    """The value above which the probability is `tail`: of the t distribution, or of the normal one without degrees."""
    from scipy.stats import norm, t

    return float(norm.isf(tail) if degrees is None else t.isf(tail, degrees))

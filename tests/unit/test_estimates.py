import numpy as np
import pytest
from scipy.stats import binom, nct, norm, t, ttest_1samp

from fairseq_kd.evaluation.estimates import ALPHA, POWER, Estimate, over_seeds, over_segments

UNIT = {n: Estimate(0.0, 1 / n**0.5, n - 1, n) for n in (2, 3, 5, 10)}  # seeds whose values have the scatter 1


def test_p_and_interval_over_seeds_are_scipys():
    values = [0.3, 1.1, 0.4, 0.9]
    found, reference = over_seeds(values), ttest_1samp(values, 0.2)
    assert found.beside(0.2) == pytest.approx(reference.pvalue)
    assert found.above(0.2) == pytest.approx(ttest_1samp(values, 0.2, alternative="greater").pvalue)
    assert found.below(0.2) == pytest.approx(ttest_1samp(values, 0.2, alternative="less").pvalue)
    assert found.interval() == pytest.approx(tuple(reference.confidence_interval(0.95)))
    assert (found.test, found.sample) == ("paired t-test over 4 seeds", "4 seeds")


def test_two_one_sided_tests_are_those_of_statsmodels():
    """statsmodels 0.15.0: ttost_paired([30.1, 30.4, 29.8], [30.0, 30.5, 30.0], -0.5, 0.5)[0]."""
    assert over_seeds([0.1, -0.1, -0.2]).within(0.5) == pytest.approx(0.01950617387952779)


@pytest.mark.parametrize(
    ("seeds", "level", "smallest"),
    [(2, 0.05, 11.549889754978167), (3, 0.05, 3.264043552819638), (5, 0.05, 1.6819970833232674), (10, 0.01, 1.332032)],
)
def test_the_detectable_difference_is_that_of_statsmodels(seeds, level, smallest):
    """statsmodels 0.15.0: TTestPower().solve_power(nobs=seeds, alpha=level, power=0.8)."""
    assert UNIT[seeds].detectable(level) == pytest.approx(smallest, rel=1e-3)


@pytest.mark.parametrize(("seeds", "level"), [(2, 0.05), (3, 0.0125), (5, 0.005)])
def test_the_power_of_the_detectable_difference_is_that_of_the_noncentral_t(seeds, level):
    centre, critical = UNIT[seeds].detectable(level) * seeds**0.5, t.isf(level / 2, seeds - 1)
    # the other tail has below 1e-3; scipy's cdf is nan there for some values
    assert nct.sf(critical, seeds - 1, centre) == pytest.approx(POWER, abs=1e-3)


def test_over_segments_worked_by_hand():
    """Of 9 resamples 2 are at most 0 and 8 at most 4: (2 + 1) / 10, and (9 - 7 + 1) / 10 are at least 4."""
    found = over_segments(2.0, [-1, 0, 1, 2, 2, 3, 3, 4, 5], segments=50)
    assert found.above() == 0.3 and found.below(4) == 0.3 and found.beside() == 0.6
    assert found.within(4) == 0.3  # at least 4: 3 / 10; at most -4: 1 / 10
    assert found.error == pytest.approx(np.std([-1, 0, 1, 2, 2, 3, 3, 4, 5]))
    assert found.interval() == pytest.approx((-0.8, 4.8))  # 0.2 and 7.8 steps from the first to the last of 9
    normal = norm.isf(0.025) + norm.isf(0.2)  # the other tail adds below 1e-6
    assert found.detectable(0.05) == pytest.approx(normal * found.error, rel=1e-5)
    assert found.smallest_margin(0.05) == pytest.approx((norm.isf(0.05) + norm.isf(0.1)) * found.error)
    assert found.test == "paired bootstrap over 50 segments"


def test_without_scatter_nothing_can_be_said():
    for found in (over_seeds([0.1 + 0.2, 0.3]), over_segments(0.0, [0.0] * 10, 5)):
        said = (found.above(), found.below(), found.beside(), found.within(1), found.interval(), found.detectable(0.05))
        assert set(said) == {None} and found.smallest_margin(0.05) is None


def share_is(count: int, of: int, expected: float) -> bool:
    """Whether the count is within the central 99.9 % of the binomial distribution."""
    low, high = binom.interval(0.999, of, expected)
    return low <= count <= high


def test_over_seeds_the_level_is_kept_and_the_detectable_difference_is_found():
    draw, trials = np.random.default_rng(1), 1500
    samples = draw.normal(0, 1, (trials, 3))
    found = [over_seeds(row) for row in samples]
    assert share_is(sum(one.beside() < ALPHA for one in found), trials, ALPHA)
    assert share_is(sum(one.beside() < ALPHA and one.value > 0 for one in found), trials, ALPHA / 2)
    moved = [over_seeds(row) for row in samples + UNIT[3].detectable(ALPHA)]
    assert share_is(sum(one.beside() < ALPHA for one in moved), trials, POWER)


def test_over_seeds_equivalence_keeps_the_level_and_the_smallest_margin_is_shown():
    draw, trials, margin = np.random.default_rng(2), 1500, UNIT[3].smallest_margin(ALPHA)
    equal = [over_seeds(row) for row in draw.normal(0, 1, (trials, 3))]
    assert share_is(sum(one.within(margin) < ALPHA for one in equal), trials, POWER)
    apart = [over_seeds(row) for row in draw.normal(margin, 1, (trials, 3))]  # the difference is the margin
    assert sum(one.within(margin) < ALPHA for one in apart) <= binom.ppf(0.999, trials, ALPHA)


def test_over_segments_the_level_is_kept_and_the_detectable_difference_is_found():
    draw, trials, segments = np.random.default_rng(3), 400, 150
    picks = draw.integers(segments, size=(400, segments))
    smallest = Estimate(0.0, 1 / segments**0.5, None, segments).detectable(ALPHA)
    for moved, expected in ((0.0, ALPHA), (smallest, POWER)):
        samples = draw.normal(moved, 1, (trials, segments))
        found = [over_segments(row.mean(), row[picks].mean(axis=1), segments) for row in samples]
        assert share_is(sum(one.beside() < ALPHA for one in found), trials, expected)

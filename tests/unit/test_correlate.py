"""Correlations over few units: coefficients, intervals and permutation tests."""

import numpy as np
import pytest
from scipy import stats

from fairseq_kd.study.report.correlate import EXACT, TRIALS, line_through, pearson, smallest_p, spearman


def drawn(units, seed=1):
    """Two related sequences (n,), with two equal values in the second one."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=units)
    y = x + draw.normal(size=units)
    y[1] = y[0]
    return x, y


def test_four_units_worked_by_hand():
    # Spearman is 1 - 6 Σd² / (4 · 15), and Σd² is 2. Of the 24 orders 4 have Σd² of at most 2 (the order itself and
    # three exchanges of neighbours), and by symmetry 4 have a coefficient of at most -0.8.
    for found in (spearman([1, 2, 3, 4], [1, 3, 2, 4]), pearson([1, 2, 3, 4], [1, 3, 2, 4])):
        assert found.value == pytest.approx(0.8) and found.p == pytest.approx(8 / 24)
    assert spearman([1, 2, 3, 4], [8, 4, 2, 1]).value == -1 and spearman([1, 2, 3, 4], [8, 4, 2, 1]).p == 2 / 24
    assert pearson([1, 2, 3, 4], [8, 4, 2, 1]).value == pytest.approx(-11.5 / (5 * 28.75) ** 0.5)
    assert smallest_p(4) == 2 / 24 and smallest_p(6) == 2 / 720 and smallest_p(EXACT + 1) == 1 / (TRIALS + 1)


@pytest.mark.parametrize(("ours", "theirs"), [(pearson, stats.pearsonr), (spearman, stats.spearmanr)])
def test_coefficient_and_exact_p_are_those_of_scipy(ours, theirs):
    x, y = drawn(6)
    found = ours(x, y)
    assert found.value == pytest.approx(theirs(x, y).statistic)
    test = stats.permutation_test(
        (x,), lambda order: abs(theirs(order, y).statistic), permutation_type="pairings", alternative="greater"
    )  # by default up to 9,999 orders, so all 720
    assert found.p == pytest.approx(test.pvalue, abs=1e-12)


def test_p_of_many_units_is_near_the_one_of_scipy_and_never_zero():
    x, y = drawn(12)
    test = stats.permutation_test(
        (x,), lambda order: abs(stats.pearsonr(order, y).statistic), permutation_type="pairings",
        alternative="greater", n_resamples=1500, random_state=3,
    )  # fmt: skip
    assert 0.02 < pearson(x, y).p == pytest.approx(test.pvalue, abs=0.03)
    assert pearson(x, x).p == 1 / (TRIALS + 1)


@pytest.mark.parametrize(("ours", "theirs"), [(pearson, stats.pearsonr), (spearman, stats.spearmanr)])
def test_the_interval_is_that_of_the_bootstrap_of_scipy(ours, theirs):
    x, y = drawn(12)
    found = stats.bootstrap(
        (x, y), lambda a, b: theirs(a, b).statistic, paired=True, vectorized=False, n_resamples=2000,
        method="percentile", random_state=2,
    )  # fmt: skip
    assert ours(x, y).interval == pytest.approx(tuple(found.confidence_interval), abs=0.04)


def test_resamples_without_a_coefficient_are_left_out():
    low, high = pearson([0, 0, 0, 1], [1, 2, 3, 4]).interval  # a third of the resamples has no unit with x = 1
    assert -1 <= low < high <= 1


def test_nothing_is_correlated_below_four_units_or_without_variation():
    for correlate in (pearson, spearman):
        assert correlate([1, 2, 3], [1, 2, 3]) is None
        assert correlate([1, 2, 3, 4], [0.1 + 0.2, 0.3, 0.3, 0.3]) is None  # equal up to rounding
        assert correlate([5, 5, 5, 5], [1, 2, 3, 4]) is None


def test_the_order_of_the_units_changes_no_coefficient_and_no_exact_p():
    x, y = drawn(6)
    order = [3, 1, 5, 0, 2, 4]
    for correlate in (pearson, spearman):
        one, other = correlate(x, y), correlate(x[order], y[order])
        assert one.value == pytest.approx(other.value) and one.p == pytest.approx(other.p)


def test_the_line_through_points_worked_by_hand():
    assert line_through([0, 1, 2], [1, 2, 6]) == pytest.approx((2.5, 0.5))  # mean 3; Σ(x - 1)(y - 3) = 5, Σ(x - 1)² = 2

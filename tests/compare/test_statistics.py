"""What is said of a few runs, against what is known of it."""

import numpy as np
import pytest
from scipy import stats

from es_rl.compare.report import statistics


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end():
    values = np.array([-1000.0, 1, 2, 3, 4, 5, 6, 1000])
    assert statistics.iqm(values) == pytest.approx(3.5)
    assert statistics.iqm(np.array([1.0, 2, 6])) == pytest.approx(3.0)  # of three nothing is left out


def test_the_interval_is_the_percentile_bootstrap():
    values = np.random.default_rng(0).normal(5, 2, size=30)
    low, high = statistics.interval(values, lambda v: v.mean(axis=0))
    reference = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, random_state=0)
    assert (low, high) == pytest.approx(reference.confidence_interval, abs=0.05)
    assert low < values.mean() < high


def test_intervals_of_curves_are_those_of_each_point():
    curves = np.random.default_rng(1).normal(size=(5, 3))
    low, high = statistics.interval(curves)
    assert low.shape == high.shape == (3,)
    assert (low[1], high[1]) == pytest.approx(statistics.interval(curves[:, 1]))


def test_fewer_than_three_runs_have_no_interval_and_no_probability():
    two, three = np.array([3.0, 4.0]), np.array([0.0, 1.0, 2.0])
    assert np.isnan(statistics.interval(two)).all() and np.isfinite(statistics.interval(three)).all()
    assert np.isnan(statistics.median_interval(two)).all() and np.isfinite(statistics.median_interval(three)).all()
    assert np.isnan(statistics.stratified_interval([three, two])).all()
    assert np.isnan(statistics.profile_band([three, two], np.array([0.5]))).all()
    assert np.isnan(statistics.probability_of_improvement(two, three)).all()
    assert np.isnan(statistics.probability_of_improvement(three, two)).all()


def test_probability_of_improvement_counts_pairs():
    chance, low, high = statistics.probability_of_improvement(np.array([1.0, 3, 5]), np.array([2.0, 3, 9]))
    assert chance == pytest.approx((0 + 0 + 0 + 1 + 0.5 + 0 + 1 + 1 + 0) / 9)
    assert 0 <= low < chance < high <= 1
    more = statistics.probability_of_improvement(np.array([2.0, 3, 4]), np.array([0.0, 1, 1.5]))
    assert more == (1.0, 1.0, 1.0)


def test_a_stratified_resample_draws_as_many_runs_of_each_task_as_there_are():
    """Tasks without spread leave nothing to chance; a plain bootstrap of all runs would mix them."""
    strata = [np.zeros(4), np.ones(4)]
    assert statistics.stratified_interval(strata, lambda v: v.mean(axis=0)) == (0.5, 0.5)
    low, high = statistics.interval(np.concatenate(strata), lambda v: v.mean(axis=0))
    assert low < 0.3 and high > 0.7


def test_of_one_task_the_stratified_interval_is_the_plain_one():
    scores = np.random.default_rng(2).normal(size=12)
    assert statistics.stratified_interval([scores]) == pytest.approx(statistics.interval(scores))


def test_the_stratified_interval_of_a_mean_is_as_wide_as_its_standard_error_within_tasks():
    rng = np.random.default_rng(3)
    strata = [rng.normal(10 * task, 1 + task, size=40) for task in range(3)]
    low, high = statistics.stratified_interval(strata, lambda v: v.mean(axis=0))
    error = np.sqrt(sum(scores.var() / 40 for scores in strata)) / 3
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1.0, abs=0.05)
    assert (high + low) / 2 == pytest.approx(np.mean(strata), abs=0.1 * error)


def test_a_profile_is_the_share_of_runs_above_and_every_task_counts_the_same():
    strata = [np.array([0.0, 0.5, 1.0]), np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])]
    shares = statistics.profile(strata, np.array([-1.0, 0.0, 0.5, 1.0, 2.0]))
    np.testing.assert_allclose(shares, [1.0, (2 / 3 + 1) / 2, (1 / 3 + 1) / 2, (0 + 0.5) / 2, 0.0])


def test_the_band_of_a_profile_is_that_of_the_resampled_profiles():
    """A task of three runs, of which one is above: the number drawn of it is binomial, (3, 1/3)."""
    strata = [np.array([0.0, 0.0, 1.0]), np.array([1.0, 1.0, 1.0])]
    low, high = statistics.profile_band(strata, np.array([-0.5, 0.5, 1.5]))
    assert (low[0], high[0]) == (1.0, 1.0) and (low[2], high[2]) == (0.0, 0.0)
    # P(0 of 3) = 0.30 and P(3 of 3) = 0.037, so both are within the 95 %.
    np.testing.assert_allclose([low[1], high[1]], [(0 + 1) / 2, (1 + 1) / 2])


def test_scores_are_zero_at_the_one_and_one_at_the_other():
    assert statistics.normalised(np.array([-1.0, 1.0, 3.0, 5.0]), -1.0, 3.0).tolist() == [0.0, 0.5, 1.0, 1.5]


def test_a_level_is_reached_where_the_line_crosses_it_first():
    x, y = np.array([1.0, 2.0, 4.0, 6.0]), np.array([0.0, 10.0, 5.0, 20.0])
    assert statistics.first_reached(0.0, x, y) == 1.0 and statistics.first_reached(-3.0, x, y) == 1.0
    assert statistics.first_reached(5.0, x, y) == 1.5 and statistics.first_reached(10.0, x, y) == 2.0
    assert statistics.first_reached(12.5, x, y) == 5.0 and statistics.first_reached(20.1, x, y) == np.inf


def test_the_median_of_times_of_which_some_are_never_has_an_interval():
    assert statistics.median_interval(np.array([1.0, 2.0, 3.0])) == (1.0, 3.0)
    assert statistics.median_interval(np.array([1.0, 2.0, np.inf])) == (1.0, np.inf)
    assert statistics.median_interval(np.array([np.inf] * 3)) == (np.inf, np.inf)


def test_levels_are_round_and_between():
    assert statistics.round_levels(-300.0, 7152.0) == [1500.0, 3500.0, 5500.0]
    assert statistics.round_levels(0.0, 1.0) == [0.2, 0.5, 0.8] and statistics.round_levels(0.0, 8.0) == [2.0, 4.0, 6.0]
    assert statistics.round_levels(-40.0, -20.0) == [-36.0, -30.0, -24.0]
    assert statistics.round_levels(5.0, 5.0) == [] == statistics.round_levels(0.0, float("nan"))
    for span in np.geomspace(1e-3, 1e6, 50):
        levels = statistics.round_levels(1.0, 1.0 + span)
        assert len(set(levels)) == 3 and 1.0 < levels[0] < levels[1] < levels[2] < 1.0 + span

"""What is said of a few runs, against what is known of it."""

import numpy as np
import pytest
from scipy import stats

from es_rl import statistics


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


def test_one_run_has_no_interval():
    assert np.isnan(statistics.interval(np.array([3.0]))).all()


def test_probability_of_improvement_counts_pairs():
    chance, low, high = statistics.probability_of_improvement(np.array([1.0, 3, 5]), np.array([2.0, 3]))
    assert chance == pytest.approx((0 + 0 + 1 + 0.5 + 1 + 1) / 6)
    assert 0 <= low < chance < high <= 1
    assert statistics.probability_of_improvement(np.array([2.0, 3]), np.array([0.0, 1])) == (1.0, 1.0, 1.0)
    assert statistics.probability_of_improvement(np.array([2.0]), np.array([3.0]))[0] == 0.0


def test_curves_meet_on_one_grid_and_are_nowhere_made_longer():
    values = statistics.at(np.array([0.0, 1.0, 3.0]), [(np.array([0.0, 2.0]), np.array([0.0, 4.0]))])
    assert values[0, :2].tolist() == [0.0, 2.0] and np.isnan(values[0, 2])

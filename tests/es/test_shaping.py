"""Fitness → utilities."""

import numpy as np
import pytest

from es_rl.errors import ConfigError
from es_rl.es.shaping import SHAPINGS, utilities

FITNESS = np.array([3.0, -1.0, 10.0, 2.0, 0.5, 7.0])


def shaped(fitness, shaping="centered_ranks", top=None):
    return utilities(np.array(fitness, dtype=float), shaping=shaping, top=top or len(fitness) // 2)


def test_centered_ranks():
    assert shaped(FITNESS)[0].tolist() == pytest.approx([0.1, -0.5, 0.5, -0.1, -0.3, 0.3])


def test_equal_fitness_shares_its_rank():
    assert shaped([1, 1, 2, 0])[0].tolist() == pytest.approx([0, 0, 0.5, -0.5])


def test_values_of_the_other_shapings():
    z = shaped(FITNESS, "zscore")[0]
    assert z.mean() == pytest.approx(0) and z.std() == pytest.approx(1)
    assert np.allclose(np.diff(z), np.diff(FITNESS) / FITNESS.std())
    assert shaped(FITNESS, "normalized")[0].tolist() == pytest.approx(((FITNESS + 1) / 11 - 0.5).tolist())
    assert shaped(FITNESS, "raw")[0].tolist() == FITNESS.tolist()
    assert shaped([1, 2, 5, 4, 3, 3], "sign")[0].tolist() == [-0.5, 0.5, 0.5, -0.5, 0, 0]


@pytest.mark.parametrize("shaping", SHAPINGS)
def test_a_better_member_never_gets_less(shaping):
    fitness = np.random.default_rng(0).normal(size=32)
    u = shaped(fitness, shaping)[0]
    for pair in range(16):
        better, worse = (
            (2 * pair, 2 * pair + 1) if fitness[2 * pair] > fitness[2 * pair + 1] else (2 * pair + 1, 2 * pair)
        )
        assert u[better] > u[worse]


@pytest.mark.parametrize("shaping", SHAPINGS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_failed_member_never_ranks_above_a_finite_one(shaping, bad):
    u = shaped([bad, 1.0, 5.0, bad, -3.0, 2.0], shaping)[0]
    assert np.isfinite(u).all()
    if shaping == "sign":  # it compares within pairs only
        assert u[0] < u[1] and u[3] < u[2]
    else:
        assert max(u[0], u[3]) <= u[[1, 2, 4, 5]].min()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_failed_member_ranks_strictly_below_the_worst_finite_one(bad):
    u = shaped([bad, 1.0, 5.0, 2.0])[0]
    assert u[0] < u[1:].min()


@pytest.mark.parametrize("shaping", SHAPINGS)
@pytest.mark.parametrize("fitness", [[2.5] * 8, [0.0] * 8, [1e300] * 8, [np.nan] * 8, [-np.inf, np.nan] * 4])
def test_equal_or_no_fitness_makes_no_difference(shaping, fitness):
    u = shaped(fitness, shaping)[0]
    assert np.array_equal(u[0::2], u[1::2])


@pytest.mark.parametrize("shaping", SHAPINGS)
def test_a_pair_that_failed_as_a_whole_makes_no_difference(shaping):
    u = shaped([np.nan, np.inf, 1.0, 2.0], shaping)[0]
    assert u[0] == u[1]


def test_top_keeps_the_pairs_with_the_best_better_member():
    u, pairs = shaped([0, 9, 1, 1, 5, 8, np.inf, -7], "zscore", top=2)
    assert pairs.tolist() == [0, 2]
    used = np.array([0, 9, 5, 8.0])
    assert np.allclose(u[[0, 1, 4, 5]], (used - used.mean()) / used.std())
    assert u[[2, 3, 6, 7]].tolist() == [0, 0, 0, 0]


def test_a_failed_pair_is_never_among_the_top():
    assert shaped([np.nan, np.inf, -5, -6, -7, -8], "zscore", top=2)[1].tolist() == [1, 2]


@pytest.mark.parametrize(("fitness", "top"), [([1, 2, 3], 1), ([], 1), ([1, 2], 0), ([1, 2], 2)])
def test_what_is_not_pairs_is_refused(fitness, top):
    with pytest.raises(ValueError, match="top|values"):
        utilities(np.array(fitness, float), shaping="raw", top=top)


def test_an_unknown_shaping_names_the_nearest():
    with pytest.raises(ConfigError, match="zscore"):
        shaped([1, 2], "z_score")


@pytest.mark.parametrize("shaping", ["zscore", "normalized"])
def test_fitness_of_any_size_is_told_apart_down_to_its_rounding(shaping):
    expected = shaped(FITNESS, shaping)[0]
    for scale in (1e-100, 1e-13, 1e13):
        assert np.allclose(shaped(FITNESS * scale, shaping)[0], expected)
    rounded = np.array([1e6, 1e6, np.nextafter(1e6, 2e6), 1e6])
    assert not shaped(rounded, shaping)[0].any()


def test_ranks_are_those_of_scipy():
    from scipy.stats import rankdata

    from es_rl.es.shaping import _mean_ranks

    rng = np.random.default_rng(0)
    for values in (
        rng.normal(size=33),
        rng.integers(0, 5, 64).astype(float),
        np.array([-np.inf, 0.0, -0.0, 1.0, -np.inf]),
    ):
        assert np.array_equal(_mean_ranks(values), rankdata(values))

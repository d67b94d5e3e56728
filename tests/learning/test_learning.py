"""Learning, on a toy environment with a documented threshold."""

import pytest
from conftest import metrics, soak

from es_rl.envs.toys.point_mass import ID, SOLVED
from es_rl.noise import KINDS


# The transformer learns too, in more time than a test has: see test_transformer for what it is there for.
@pytest.mark.parametrize("policy", ["linear", *soak("mlp")])
@pytest.mark.slow
def test_point_mass_is_solved_with_the_defaults(train, policy):
    run = train(f"env={ID}", f"policy={policy}", f"target_return={SOLVED}", "generations=120", "eval.episodes=20")
    assert metrics(run)[-1]["eval/return_mean"] >= SOLVED


@pytest.mark.parametrize(
    "keys",
    ["es.noise=lowrank es.shaping=zscore es.top=8", *soak(*(f"es.noise={kind}" for kind in KINDS), "es.episodes=2")],
)
@pytest.mark.slow
def test_point_mass_is_learnt_in_other_ways(train, keys):
    learnt = 3 * SOLVED  # doing nothing: below 6·SOLVED
    keys = [f"env={ID}", "policy=linear", "eval.every=4", "eval.episodes=20", *keys.split()]
    run = train(*keys, "generations=32", f"target_return={learnt}")
    assert metrics(run)[-1]["eval/return_mean"] >= learnt

"""ask and tell."""

from itertools import product

import numpy as np
import pytest
import torch
from conftest import soak

from es_rl import es
from es_rl.errors import TrainingError
from es_rl.es.config import EsConfig, OptimConfig
from es_rl.es.optim import OPTIMIZERS
from es_rl.es.shaping import SHAPINGS
from es_rl.noise import KINDS, directions, explicit

THETA = {"w": torch.zeros(3, 2), "b": torch.ones(3)}
SGD = OptimConfig("sgd", 1.0, momentum=0.0)  # Adam's first step knows signs only


def setup(chunk=4, optim=None, **settings):
    params = es.ESParams(EsConfig(**settings), optim or OptimConfig(), seed=0, chunk=chunk)
    return params, es.ESState(0, THETA, {"seen": torch.zeros(1)}, {})


def test_the_chunks_are_the_population_whatever_its_size():
    params, state = setup(chunk=4, population=10)
    p, chunks = es.ask(params, state)
    assert [list(c) for c in chunks] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert (p.block, p.generation, p.sigma) == (2, 0, 0.05)


@pytest.mark.parametrize("population", [2, 64, 130, 256, 460])
def test_no_member_is_lost(population):
    params, state = setup(chunk=64, population=population)
    chunks = es.ask(params, state)[1]
    assert [m for c in chunks for m in c] == list(range(population))
    for c in chunks:
        assert len(c) % 2 == 0 and c[0] // 64 == c[-1] // 64  # whole pairs, of one block of orthogonal directions


def test_sigma_and_learning_rate_decay_by_generation():
    params, state = setup(population=4, sigma=0.4, sigma_decay=0.5, optim=OptimConfig("sgd", 1.0, 0.5, momentum=0.0))
    assert [es.perturbation(params, g).sigma for g in range(3)] == [0.4, 0.2, 0.1]
    norms = []
    for _ in range(3):
        state, told = es.tell(params, state, np.array([1.0, 0, 0, 0]), {})
        norms.append(told.update_norm / told.gradient_norm)
    assert norms == pytest.approx([1.0, 0.5, 0.25], rel=1e-4)


def test_noise_that_is_reused_is_that_of_an_earlier_generation():
    params, state = setup(population=4, noise_reuse=3, sigma=0.4, sigma_decay=0.5)
    reused = [es.perturbation(params, g) for g in range(5)]
    assert [p.generation for p in reused] == [0, 0, 0, 1, 1]
    assert [p.sigma for p in reused] == [0.4, 0.2, 0.1, 0.05, 0.025]
    before, _ = es.tell(params, state, np.array([1.0, 0, 0, 0]), {})
    after, _ = es.tell(params, before, np.array([0.0, 1, 0, 0]), {})
    assert before.generation == 1 and not torch.equal(after.theta["w"], before.theta["w"])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_frozen_vectors_stay_whatever_pulls_at_them(name, kind):
    optim = OptimConfig(name, lr=0.1, weight_decay=0.3)
    params, state = setup(population=8, noise=kind, freeze_vectors=True, optim=optim)
    for _ in range(3):
        state, _ = es.tell(params, state, np.arange(8.0), {})
    assert torch.equal(state.theta["b"], THETA["b"]) and not torch.equal(state.theta["w"], THETA["w"])
    assert list(state.theta) == list(THETA) and not [key for key in state.optim if key.startswith("b/")]


def test_an_ars_update_is_that_of_the_paper():
    """theta + alpha/(b·std) Σ (f⁺ − f⁻) epsilon over the b best directions, with lr = 2·alpha·sigma."""
    alpha, sigma = 0.02, 0.03
    params, state = setup(
        population=8, top=2, sigma=sigma, shaping="zscore", optim=OptimConfig("sgd", 2 * alpha * sigma, momentum=0.0)
    )
    fitness = np.array([1.0, 2.0, 7.0, 3.0, 0.0, -1.0, 2.0, 9.0])
    p, _ = es.ask(params, state)
    epsilon = list(directions({"w": (3, 2), "b": (3,)}, [1, 3], p))
    std = np.std([7, 3, 2, 9])
    expected = alpha / (2 * std) * ((7 - 3) * epsilon[0]["w"] + (2 - 9) * epsilon[1]["w"])
    after, _ = es.tell(params, state, fitness, {})
    assert np.allclose(after.theta["w"].numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("shaping", SHAPINGS)
@pytest.mark.parametrize("fitness", [np.full(8, 3.7), np.full(8, np.nan), np.array([np.inf, -np.inf] * 4)])
def test_nothing_to_tell_apart_is_a_zero_update(shaping, fitness):
    params, state = setup(population=8, shaping=shaping, optim=OptimConfig(weight_decay=0.1))
    after, told = es.tell(params, state, fitness, {"seen": torch.ones(1)})
    assert told.flat and told.update_norm == 0.0
    assert all(torch.equal(after.theta[k], THETA[k]) for k in THETA)
    assert after.generation == 1 and after.buffers["seen"].item() == 1.0


@pytest.mark.parametrize("shaping", SHAPINGS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_failed_members_move_theta_no_more_than_a_worst_one(shaping, bad):
    params, state = setup(population=8, shaping=shaping, optim=SGD)
    fitness = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    fitness[5] = bad
    after, told = es.tell(params, state, fitness, {})
    assert told.failed == 1
    assert all(value.isfinite().all() for value in after.theta.values())
    worst = np.where(np.isfinite(fitness), fitness, 1.0 - 1e-9)
    same, _ = es.tell(params, state, worst, {})
    assert all(torch.allclose(after.theta[k], same.theta[k], atol=1e-6) for k in THETA)


def test_a_state_is_never_changed():
    params, state = setup(population=4)
    after, _ = es.tell(params, state, np.array([1.0, 2, 3, 4]), {})
    es.tell(params, after, np.array([4.0, 2, 3, 4]), {})
    again, _ = es.tell(params, state, np.array([1.0, 2, 3, 4]), {})
    assert all(torch.equal(after.theta[k], again.theta[k]) for k in THETA)
    assert all(torch.equal(after.optim[k], again.optim[k]) for k in after.optim)


FEW = [case for case in product(KINDS, SHAPINGS) if case[0] == "dense" or case[1] == "centered_ranks"]
OTHERS = [case for case in product(KINDS, SHAPINGS) if case not in FEW]


@pytest.mark.parametrize(("kind", "shaping"), [*FEW, *soak(*OTHERS)])
def test_a_quadratic_is_climbed(kind, shaping):
    """Ask and tell alone, without any environment."""
    params, state = setup(population=32, noise=kind, shaping=shaping, optim=OptimConfig(lr=0.05), sigma=0.1)
    target = {"w": torch.full((3, 2), 0.7), "b": torch.full((3,), -0.2)}

    def fitness(theta):
        return -sum(float((theta[k] - target[k]).square().sum()) for k in theta)

    for _ in range(120):
        p, chunks = es.ask(params, state)
        pairs = range(16)
        values = []
        for epsilon in directions({k: tuple(v.shape) for k, v in state.theta.items()}, pairs, p):
            for step in (p.sigma, -p.sigma):
                values.append(
                    fitness(
                        {k: v + step * torch.from_numpy(explicit(epsilon[k], v.shape)) for k, v in state.theta.items()}
                    )
                )
        assert sum(len(c) for c in chunks) == len(values)
        state, _ = es.tell(params, state, np.array(values), {})
    assert fitness(state.theta) > -0.05 > fitness(THETA)


def test_a_population_grows_until_it_has_the_steps_wanted():
    params, _ = setup(population=10, steps=1000, population_max=60)
    assert es.grow(params, 10, 1000) == []  # enough
    assert [m for c in es.grow(params, 10, 400) for m in c] == list(range(10, 24))  # 25 members would have 1000
    assert [m for c in es.grow(params, 10, 1) for m in c] == list(range(10, 60))  # at most so many
    assert [len(c) for c in es.grow(params, 10, 400)] == [2, 4, 4, 4]  # no chunk goes across two blocks of directions
    assert es.grow(setup(population=10)[0], 10, 1) == []  # it is not asked to
    assert len([m for c in es.grow(setup(population=10, steps=10**6)[0], 10, 1) for m in c]) == 150


def test_the_limit_of_episodes_grows_by_generation_and_one_day_is_none():
    params, _ = setup(population=4, limit=100, limit_growth=1.1)
    assert [es.limit(params, g) for g in (0, 1, 2, 8)] == [100, 110, 121, 214]
    assert es.limit(params, 10**6) is None and es.limit(setup(population=4)[0], 3) is None


def test_a_grown_population_moves_theta_like_one_of_that_size():
    fitness = np.random.default_rng(0).normal(size=12)
    small, state = setup(population=4, top=1, shaping="raw", optim=SGD)
    large, _ = setup(population=12, top=3, shaping="raw", optim=SGD)
    grown, _ = es.tell(small, state, fitness, {})
    whole, _ = es.tell(large, state, fitness, {})
    assert all(torch.equal(grown.theta[k], whole.theta[k]) for k in THETA)


@pytest.mark.parametrize(("linear", "low", "high"), [(True, 0.6, 1.0), (False, -0.3, 0.3)])
def test_the_halves_of_a_population_agree_as_far_as_fitness_depends_on_theta(linear, low, high):
    params, state = setup(population=128, chunk=16, shaping="raw")
    p, _ = es.ask(params, state)
    shapes = {k: tuple(v.shape) for k, v in THETA.items()}
    drawn = [
        np.concatenate([explicit(d[k], shapes[k]).ravel() for k in THETA]) for d in directions(shapes, range(64), p)
    ]
    signal = np.array([d.sum() for d in drawn]) if linear else np.random.default_rng(1).normal(size=64)
    _, told = es.tell(params, state, np.stack([signal, -signal], axis=1).ravel(), {})
    assert low <= told.agreement <= high


def test_halves_that_are_not_independent_have_no_agreement():
    params, state = setup(population=2)
    assert es.tell(params, state, np.array([1.0, 0.0]), {})[1].agreement is None
    for population, none in ((8, True), (16, False)):
        params, state = setup(population=population, chunk=8, noise="orthogonal")
        told = es.tell(params, state, np.arange(population) * 1.0, {})[1]
        assert (told.agreement is None) == none


def test_effective_rank_counts_the_directions_of_a_change():
    a, b = torch.randn(6, 1), torch.randn(1, 4)
    assert es.effective_rank([a @ b]) == pytest.approx(1.0, rel=1e-5)
    assert es.effective_rank([torch.eye(5)]) == pytest.approx(5.0)
    assert es.effective_rank([torch.eye(3), a @ b, torch.ones(7), torch.zeros(2, 2)]) == pytest.approx(2.0, rel=1e-5)
    assert es.effective_rank([torch.ones(3)]) is None


def test_an_estimate_beyond_all_numbers_is_refused():
    params, state = setup(population=4, shaping="raw", optim=SGD)
    with pytest.raises(TrainingError, match=r"theta is infinite after generation 1.*use a shaping that scales"):
        es.tell(params, state, np.array([1e300, -1e300, 0.0, 1.0]), {})

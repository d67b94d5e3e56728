"""Perturbations and their estimates, against explicit sums and analytic gradients."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from es_rl.errors import ConfigError
from es_rl.noise import (
    KINDS,
    Factors,
    Perturbation,
    check_rank,
    directions,
    estimate,
    explicit,
    matrix,
    member_weights,
    orthogonalize,
)

SHAPES = {"a": (4, 5), "b": (4, 5), "c": (7,)}
D = 47


LOW_RANK = [kind for kind in KINDS if kind.startswith("lowrank")]


def flat(epsilon):
    return np.concatenate([explicit(epsilon[name], shape).reshape(-1) for name, shape in SHAPES.items()])


def drawn(kind, pairs, **settings):
    return np.stack([flat(e) for e in directions(SHAPES, pairs, Perturbation(kind=kind, **settings))])


@pytest.mark.parametrize("kind", KINDS)
def test_a_direction_is_a_function_of_seed_generation_and_pair(kind):
    one = drawn(kind, [5], seed=1, generation=2)
    assert np.array_equal(one, drawn(kind, [3, 5, 9], seed=1, generation=2)[1:2])
    for other in (drawn(kind, [4], seed=1, generation=2), drawn(kind, [5], seed=1, generation=3), drawn(kind, [5])):
        assert not np.array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_equal_shapes_draw_from_streams_of_their_own(kind):
    (epsilon,) = directions(SHAPES, [0], Perturbation(kind=kind))
    assert not np.array_equal(explicit(epsilon["a"], (4, 5)), explicit(epsilon["b"], (4, 5)))
    rows = drawn(kind, range(4_000))  # and over many pairs, none has to do with another
    correlation = np.corrcoef(rows[:, :20].reshape(-1), rows[:, 20:40].reshape(-1))[0, 1]
    assert abs(correlation) < 4 / np.sqrt(80_000)


@pytest.mark.parametrize("kind", ["dense", "orthogonal"])
def test_every_element_is_standard_normal(kind):
    sample = drawn(kind, range(2_000)).reshape(-1)  # 94,000 numbers
    assert abs(sample.mean()) < 0.02
    assert abs(sample.std() - 1) < 0.02
    assert abs((np.abs(sample) < 1).mean() - 0.6827) < 0.01


@pytest.mark.parametrize("kind", LOW_RANK)
@pytest.mark.parametrize("rank", [1, 2, 4, 8])
@pytest.mark.slow
def test_the_standard_deviation_is_one_at_every_rank(kind, rank):
    shapes, p = {"w": (10, 12), "conv": (8, 3, 3, 3), "bias": (40,)}, Perturbation(kind=kind, rank=rank, block=4)
    rows = [[explicit(e[name], shapes[name]) for name in shapes] for e in directions(shapes, range(2_000), p)]
    for sample in map(np.stack, zip(*rows, strict=True)):
        assert abs(sample.mean()) < 0.01 and abs(sample.std() - 1) < 0.02
        assert np.abs(sample.std(axis=0) - 1).max() < 0.25  # each element, not only all together


def test_what_is_a_matrix():
    shapes = [(3, 4), (8, 2, 5), (1, 7, 6), (1, 9), (9, 1), (5,), ()]
    assert [matrix(shape) for shape in shapes] == [(3, 4), (8, 10), (7, 6), None, None, None, None]
    (epsilon,) = directions({"w": (3, 4), "v": (1, 9)}, [0], Perturbation(kind="lowrank", rank=2))
    assert isinstance(epsilon["w"], Factors) and epsilon["w"].a.shape == (3, 2) and epsilon["w"].b.shape == (4, 2)
    assert epsilon["v"].shape == (1, 9)


@pytest.mark.parametrize("kind", LOW_RANK)
@pytest.mark.parametrize(("rank", "pairs"), [(1, 1), (1, 3), (2, 2), (2, 300)])
def test_the_rank_of_an_update_is_that_of_its_pairs_together(kind, rank, pairs):
    p = Perturbation(kind=kind, rank=rank, sigma=0.1)
    update = estimate({"w": (6, 9)}, range(pairs), np.linspace(1, 2, pairs), p)["w"]
    assert np.linalg.matrix_rank(update.astype(np.float64), tol=1e-4) == min(pairs * rank, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_vectors_are_neither_perturbed_nor_moved(kind):
    p = Perturbation(kind=kind, freeze_vectors=True, sigma=0.1)
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    weights = member_weights(module, 3, p)
    for name, theta in module.named_parameters():
        assert torch.equal(weights[name], theta) == (theta.ndim == 1)
    update = estimate(SHAPES, [0, 1], np.ones(2), p)
    assert set(update) == {name for name, shape in SHAPES.items() if len(shape) > 1} and update["a"].all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_frozen_changes_nothing_for_the_others(kind):
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    every, some = (Perturbation(kind=kind, sigma=0.1, frozen=f) for f in (frozenset(), frozenset({"0.weight"})))
    one, other = member_weights(module, 3, every), member_weights(module, 3, some)
    assert torch.equal(other["0.weight"], module[0].weight) and not torch.equal(one["0.weight"], module[0].weight)
    same = [torch.equal(one[name], other[name]) for name in one if name != "0.weight"]
    assert all(same) or kind == "orthogonal"  # whose directions are orthogonal as wholes
    assert "0.weight" not in estimate({k: tuple(v.shape) for k, v in one.items()}, [0, 1], np.ones(2), some)


@pytest.mark.parametrize("rank", [0, 5])
def test_a_rank_that_a_matrix_cannot_have_is_refused(rank):
    with pytest.raises(ConfigError, match=rf"es.rank={rank}: must lie between 1 and the smaller side .* w is 4 × 9"):
        check_rank({"w": (4, 9)}, Perturbation(kind="lowrank", rank=rank))
    check_rank({"w": (4, 9), "v": (1, 9)}, Perturbation(kind="lowrank", rank=4))
    check_rank({"w": (4, 9)}, Perturbation(kind="dense", rank=9))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_the_estimate_of_a_linear_fitness_is_its_gradient_within_the_standard_error(kind):
    """The mean over independent generations, each element against its own standard error."""
    gradient = np.random.default_rng(3).normal(size=D)
    estimates = []
    for generation in range(100):
        p = Perturbation(kind=kind, sigma=0.05, generation=generation, rank=2, block=4)
        rows = np.stack([flat(e) for e in directions(SHAPES, range(32), p)])
        estimates.append(flat(estimate(SHAPES, range(32), 2 * p.sigma * rows @ gradient, p)))
    error = (np.mean(estimates, axis=0) - gradient) / (np.std(estimates, axis=0) / np.sqrt(len(estimates)))
    assert np.abs(error).max() < 4.5 and 0.7 < np.sqrt(np.mean(error**2)) < 1.3


def test_orthogonal_factors_are_orthogonal_within_a_block():
    drawn = list(directions({"w": (12, 16)}, range(4), Perturbation(kind="lowrank_orthogonal", rank=2, block=4)))
    for side, size in (("a", 12), ("b", 16)):
        columns = np.concatenate([getattr(e["w"], side) for e in drawn], axis=1).astype(np.float64)
        products = columns.T @ columns
        assert np.abs(products - np.diag(np.diag(products))).max() < 1e-5 * size


def test_orthogonal_directions_are_orthogonal_within_a_block_and_as_long_as_drawn():
    rows = drawn("orthogonal", range(16), block=8).astype(np.float64)
    gaussian = drawn("dense", range(16))
    lengths = np.linalg.norm(rows, axis=1)
    assert np.allclose(lengths, np.linalg.norm(gaussian, axis=1), rtol=1e-6)
    cosines = (rows @ rows.T) / np.outer(lengths, lengths)
    for block in (slice(0, 8), slice(8, 16)):
        assert np.abs(cosines[block, block] - np.eye(8)).max() < 1e-6
    assert np.abs(cosines[:8, 8:]).max() > 0.05  # blocks are independent


def test_more_rows_than_dimensions_are_orthogonal_in_runs():
    rows = orthogonalize(np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)).astype(np.float64)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for run in (units[:3], units[3:6]):
        assert np.allclose(run @ run.T, np.eye(3), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_estimate_is_the_explicit_sum(kind):
    p = Perturbation(kind=kind, sigma=0.1, seed=4, generation=7, block=3)
    pairs, differences = [0, 2, 5, 7], np.array([0.5, -1.0, 0.0, 2.0])
    total = sum(d * row for d, row in zip(differences, drawn(kind, pairs, seed=4, generation=7, block=3), strict=True))
    result = flat(estimate(SHAPES, pairs, differences, p))
    assert np.allclose(result, total / (2 * 4 * 0.1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_the_estimate_of_a_quadratic_is_its_analytic_gradient(kind):
    """f = −½‖A(theta − c)‖²: smoothing by a Gaussian leaves the gradient −AᵀA(theta − c) of a quadratic as it is."""
    rng = np.random.default_rng(1)
    A, c, theta = rng.normal(size=(D, D)) / 7, rng.normal(size=D), rng.normal(size=D)
    gradient = -A.T @ A @ (theta - c)
    p, pairs = Perturbation(kind=kind, sigma=0.05, seed=2, block=32), range(4096)
    rows = np.stack([flat(e) for e in directions(SHAPES, pairs, p)])
    f = lambda x: -0.5 * np.square((x - c) @ A.T).sum(axis=-1)  # noqa: E731
    differences = f(theta + p.sigma * rows) - f(theta - p.sigma * rows)
    result = flat(estimate(SHAPES, pairs, differences, p))
    error = np.linalg.norm(result - gradient) / np.linalg.norm(gradient)
    # The expected error of P Gaussian directions is sqrt((D + 1)/P); orthogonal ones do better.
    expected = np.sqrt((D + 1) / len(pairs)) * {"dense": 1.3, "orthogonal": 0.9}.get(kind, 1.6)
    assert error < expected
    cosine = result @ gradient / np.linalg.norm(result) / np.linalg.norm(gradient)
    assert cosine > 0.98


@pytest.mark.parametrize("kind", KINDS)
def test_member_weights_are_antithetic(kind):
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    p = Perturbation(kind=kind, sigma=0.3, seed=1)
    plus, minus = member_weights(module, 6, p), member_weights(module, 7, p)
    for name, theta in module.named_parameters():
        assert torch.allclose((plus[name] + minus[name]) / 2, theta, atol=1e-6)
        assert not torch.allclose(plus[name], theta)
    wider = member_weights(module, 6, replace(p, sigma=0.6))["0.weight"] - module[0].weight
    assert torch.allclose(wider, 2 * (plus["0.weight"] - module[0].weight), atol=1e-6)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match="Did you mean dense"):
        next(directions(SHAPES, [0], Perturbation(kind="dens")))

"""Perturbations and their estimates, against explicit sums and analytic gradients."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from es_rl.errors import ConfigError
from es_rl.noise import KINDS, Perturbation, directions, estimate, member_weights, orthogonalize

SHAPES = {"a": (4, 5), "b": (4, 5), "c": (7,)}
D = 47


def flat(epsilon):
    return np.concatenate([value.reshape(-1) for value in epsilon.values()])


def drawn(kind, pairs, **settings):
    return np.stack([flat(e) for e in directions(SHAPES, pairs, Perturbation(kind=kind, **settings))])


@pytest.mark.parametrize("kind", KINDS)
def test_a_direction_is_a_function_of_seed_generation_and_pair(kind):
    one = drawn(kind, [5], seed=1, generation=2)
    assert np.array_equal(one, drawn(kind, [3, 5, 9], seed=1, generation=2)[1:2])
    for other in (drawn(kind, [4], seed=1, generation=2), drawn(kind, [5], seed=1, generation=3), drawn(kind, [5])):
        assert not np.array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_shapes_draw_from_streams_of_their_own(kind):
    (epsilon,) = directions(SHAPES, [0], Perturbation(kind=kind))
    assert not np.array_equal(epsilon["a"], epsilon["b"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_element_is_standard_normal(kind):
    sample = drawn(kind, range(2_000)).reshape(-1)  # 94,000 numbers
    assert abs(sample.mean()) < 0.02
    assert abs(sample.std() - 1) < 0.02
    assert abs((np.abs(sample) < 1).mean() - 0.6827) < 0.01


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
    explicit = sum(
        d * row for d, row in zip(differences, drawn(kind, pairs, seed=4, generation=7, block=3), strict=True)
    )
    result = flat(estimate(SHAPES, pairs, differences, p))
    assert np.allclose(result, explicit / (2 * 4 * 0.1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
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
    expected = np.sqrt((D + 1) / len(pairs))
    assert error < 1.3 * expected if kind == "dense" else error < 0.9 * expected
    cosine = result @ gradient / np.linalg.norm(result) / np.linalg.norm(gradient)
    assert cosine > 0.99


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

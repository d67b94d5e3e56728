"""Optimiser steps as pure functions, against torch.optim used directly and ClipUp's equations."""

import pytest
import torch

from es_rl.errors import ConfigError
from es_rl.es import optim
from es_rl.es.config import OptimConfig

THETA = {"w": torch.tensor([[1.0, -2.0], [0.5, 3.0]]), "b": torch.tensor([0.1, 0.2])}


def updates(count):
    generator = torch.Generator().manual_seed(0)
    return [{k: torch.randn(v.shape, generator=generator) for k, v in THETA.items()} for _ in range(count)]


def run(config, count=5):
    theta, state = THETA, {}
    for update in updates(count):
        theta, state = optim.step(theta, update, state, config=config, lr=config.lr)
    return theta


@pytest.mark.parametrize(
    ("config", "reference"),
    [
        (OptimConfig("sgd", 0.1, momentum=0.9, weight_decay=0.01), lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.01)),
        (OptimConfig("sgd", 0.1, momentum=0.0), lambda p: torch.optim.SGD(p, 0.1)),
        (OptimConfig("adam", 0.1, weight_decay=0.1), lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.1)),
        (OptimConfig("adamw", 0.1, weight_decay=0.1, beta2=0.9), lambda p: torch.optim.AdamW(p, 0.1, (0.9, 0.9), weight_decay=0.1)),
    ],
)  # fmt: skip
def test_steps_through_saved_state_equal_one_optimiser(config, reference):
    params = {k: v.clone() for k, v in THETA.items()}
    optimizer = reference(list(params.values()))
    for update in updates(5):
        for name, param in params.items():
            param.grad = -update[name]
        optimizer.step()
    assert all(torch.equal(value, params[name]) for name, value in run(config).items())


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_clipup_follows_its_equations(decay):
    config = OptimConfig("clipup", 0.1, momentum=0.9, max_speed=0.15, weight_decay=decay)
    theta = torch.cat([v.reshape(-1) for v in THETA.values()])
    v = torch.zeros(6)
    for update in updates(5):
        g = torch.cat([part.reshape(-1) for part in update.values()]) - decay * theta
        v = 0.9 * v + 0.1 * g / g.norm()
        v = v * min(1.0, 0.15 / float(v.norm()))
        theta = theta + v
    assert torch.allclose(torch.cat([v.reshape(-1) for v in run(config).values()]), theta, atol=1e-6)


def test_clipup_is_limited_to_twice_its_learning_rate_by_default_and_stands_still_without_gradient():
    config = OptimConfig("clipup", 0.1)
    zero = {k: torch.zeros_like(v) for k, v in THETA.items()}
    still, _ = optim.step(THETA, zero, {}, config=config, lr=0.1)
    assert all(torch.equal(still[k], THETA[k]) for k in THETA)
    theta, state, same = THETA, {}, updates(1)[0]
    for _ in range(20):
        before, (theta, state) = theta, optim.step(theta, same, state, config=config, lr=0.1)
    step = torch.cat([(theta[k] - before[k]).reshape(-1) for k in theta])
    assert float(step.norm()) == pytest.approx(0.2, rel=1e-4)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_arguments_stay_as_they_were_and_the_step_goes_along_the_update(name):
    theta, update = {k: v.clone() for k, v in THETA.items()}, updates(1)[0]
    after, state = optim.step(theta, update, {}, config=OptimConfig(name), lr=0.01)
    again, _ = optim.step(theta, update, {}, config=OptimConfig(name), lr=0.01)
    assert all(torch.equal(theta[k], THETA[k]) and torch.equal(after[k], again[k]) for k in THETA)
    assert sum(float(((after[k] - theta[k]) * update[k]).sum()) for k in THETA) > 0
    before = {k: v.clone() for k, v in state.items()}
    optim.step(after, update, state, config=OptimConfig(name), lr=0.01)
    assert all(torch.equal(state[k], before[k]) for k in state)


def test_an_unknown_optimiser_names_the_nearest():
    with pytest.raises(ConfigError, match=r"optim.name=adm: unknown. Did you mean adam"):
        optim.step(THETA, updates(1)[0], {}, config=OptimConfig("adm"), lr=0.1)

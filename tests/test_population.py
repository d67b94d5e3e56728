"""The batched forward pass of many members against each member's explicit weights."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from es_rl.errors import EnvError
from es_rl.noise import KINDS, Perturbation, member_weights
from es_rl.population import perturb

P = Perturbation(kind="dense", sigma=0.2, seed=3, generation=5, block=4)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 8),
        nn.LayerNorm(8),
        nn.Tanh(),
        nn.Linear(8, 6, bias=False),
        nn.LayerNorm(6, bias=False),
        nn.Linear(6, 3),
    ).requires_grad_(False)


def explicit(module, members, x, rows, p=P):
    """One member after the other, each with its own weights, in a module that nobody has perturbed."""
    module = copy.deepcopy(module)
    for layer in module.modules():
        vars(layer).pop("forward", None)
    parts = [
        functional_call(module, member_weights(module, m, p), (x[i * rows : (i + 1) * rows],))
        for i, m in enumerate(members)
    ]
    return torch.cat(parts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("members", [[0], [0, 1, 2, 3, 4, 5, 6, 7], [3, 2, 9, 14]])
def test_all_members_at_once_equal_one_by_one(kind, rows, members):
    p = Perturbation(kind=kind, sigma=0.2, seed=3, generation=5, block=4)
    module, x = network(), torch.randn(len(members) * rows, 5)
    with perturb(module, members, p):
        assert torch.allclose(module(x), explicit(module, members, x, rows, p), atol=1e-5)


def test_selected_members_are_those_at_the_positions():
    module, x = network(), torch.randn(4, 5)
    with perturb(module, range(8), P) as population:
        population.select([1, 6])
        assert torch.allclose(module(x), explicit(module, [1, 6], x, 2), atol=1e-5)
        population.select(range(8))
        x = torch.randn(8, 5)
        assert torch.allclose(module(x), explicit(module, range(8), x, 1), atol=1e-5)


def test_more_dimensions_than_two():
    module, x = network(), torch.randn(4, 7, 5)
    with perturb(module, [0, 1], P):
        y = module(x)
    assert y.shape == (4, 7, 3)
    assert torch.allclose(y, explicit(module, [0, 1], x, 2), atol=1e-5)


def test_the_module_is_itself_again_even_after_an_error():
    module, x = network(), torch.randn(2, 5)
    before, weights = module(x), {k: v.clone() for k, v in module.state_dict().items()}
    with pytest.raises(RuntimeError, match="boom"), perturb(module, [0, 1], P):
        raise RuntimeError("boom")
    assert torch.equal(module(x), before)
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())


def test_a_layer_that_cannot_be_perturbed_is_named():
    module = nn.Sequential(nn.Linear(4, 4), nn.Conv1d(1, 1, 3))
    with pytest.raises(EnvError, match=r"layer 1 is a Conv1d: only Linear, LayerNorm"), perturb(module, [0, 1], P):
        pass
    assert "forward" not in vars(module[0])

"""Credit: the mean of the estimate is the gradient where there is one, and its variance is less than that of dense noise."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from es_rl.errors import ConfigError
from es_rl.policies.rounding import RoundedLinear
from es_rl.population import credit as credits
from es_rl.population.credit import Credit

ROWS, OUTPUTS = 40, 3


def network(*hidden, norm=False, bias=True):
    torch.manual_seed(0)
    widths = [5, *hidden]
    layers = []
    for i, o in itertools.pairwise(widths):
        layers += [nn.Linear(i, o, bias=bias), *([nn.LayerNorm(o)] if norm else []), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], OUTPUTS, bias=bias))


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(ROWS, 5, generator=generator), torch.randn(ROWS, OUTPUTS, generator=generator)


def gradient(module, x, slopes):
    module.zero_grad()
    (module(x) * slopes).sum(1).mean().backward()
    return {name: p.grad.clone() for name, p in module.named_parameters()}


def estimates(module, x, slopes, count, sigma=0.01, **settings):
    credit = Credit(module, **settings)
    credit.measure(x, sigma=sigma, noise=np.random.default_rng(count))
    return [credit.estimate(x, lambda _: slopes, sigma=sigma, noise=np.random.default_rng(i)) for i in range(count)]


def flat(named):
    return torch.cat([value.reshape(-1) for value in named.values()])


@pytest.mark.parametrize("settings", [{}, {"norm": True}, {"bias": False}], ids=["plain", "layer norm", "no bias"])
@pytest.mark.slow
def test_the_mean_of_the_whole_correction_is_the_gradient(settings):
    module, (x, slopes) = network(6, 4, **settings), batch()
    exact = gradient(module, x, slopes)
    found = estimates(module, x, slopes, 800, correction=1.0)
    assert list(found[0]) == list(exact)
    drawn = torch.stack([flat(one) for one in found])
    error = (drawn.mean(0) - flat(exact)) / (drawn.std(0) / len(found) ** 0.5 + 1e-6)
    assert error.abs().max() < 5  # standard errors
    assert drawn.mean(0).dot(flat(exact)) / drawn.mean(0).norm() / flat(exact).norm() > 0.99


def test_over_all_signs_one_member_has_the_mean_of_a_pair_whatever_the_function(monkeypatch):
    """Exactly, for steps too: the influence is that of a measurement before, so it is the same for all signs."""
    torch.manual_seed(0)
    module, (x, slopes) = nn.Sequential(nn.Linear(5, 3), Step(), nn.Linear(3, OUTPUTS)), batch()
    credit, sigma = Credit(module, correction=1.0), 0.3
    credit.measure(x, sigma=sigma, noise=np.random.default_rng(0))
    influence, mean, pairs = dict(credit._influence), 0.0, 0.0
    for signs in itertools.product((-1.0, 1.0), repeat=3):
        drawn = torch.tensor(signs).expand(ROWS, 3)
        monkeypatch.setattr(credits, "_signs", lambda noise, like, drawn=drawn: drawn.clone())
        credit._influence = dict(influence)
        found = credit.estimate(x, lambda _: slopes, sigma=sigma, noise=np.random.default_rng(0))
        mean = mean + found["0.weight"] / 8
        reach = (x.square().sum(1, keepdim=True) + 1).sqrt()  # 1: the input of the bias
        with torch.no_grad():
            sums = module[0](x)
            plus, minus = (module[2](module[1](sums + step * drawn * reach)) for step in (sigma, -sigma))
        gain = (slopes * (plus - minus)).sum(1, keepdim=True) / (2 * sigma)
        pairs = pairs + (gain * drawn / reach).T @ x / ROWS / 8
    assert pairs.abs().max() > 0.05
    assert (mean - pairs).abs().max() < 1e-6


def test_of_a_linear_network_the_estimate_is_exact():
    module, (x, slopes) = network(), batch()
    (found,) = estimates(module, x, slopes, 1)
    exact = gradient(module, x, slopes)
    assert all(torch.allclose(found[name], exact[name], atol=1e-6) for name in exact)


@pytest.mark.slow
def test_the_variance_is_that_of_units_and_not_of_weights():
    module, (x, slopes) = network(32, 16), batch()
    exact = flat(gradient(module, x, slopes))
    projected = torch.stack([flat(one) for one in estimates(module, x, slopes, 60)])
    rng, sigma, dense = np.random.default_rng(0), 0.01, []
    theta = nn.utils.parameters_to_vector(module.parameters()).detach()
    with torch.no_grad():
        for _ in range(60):  # dense noise, each row a pair of its own
            total = torch.zeros_like(theta)
            for row in range(ROWS):
                epsilon = torch.from_numpy(rng.standard_normal(len(theta), dtype=np.float32))
                scores = []
                for step in (sigma, -sigma):
                    nn.utils.vector_to_parameters(theta + step * epsilon, module.parameters())
                    scores.append(float((module(x[row : row + 1]) * slopes[row]).sum()))
                total += (scores[0] - scores[1]) / (2 * sigma) * epsilon / ROWS
            dense.append(total)
        nn.utils.vector_to_parameters(theta, module.parameters())
    variance = [float((torch.as_tensor(np.stack(kind)) - exact).square().sum(1).mean()) for kind in (projected, dense)]
    assert variance[0] < variance[1] / 100


class Step(nn.Module):
    def forward(self, x):
        return (x > 0).to(x.dtype)


def test_steps_and_rounded_weights_are_credited():
    """No derivative exists: a network of steps with int8 weights still learns to move its outputs along the slopes."""
    torch.manual_seed(0)
    module = nn.Sequential(RoundedLinear(5, 64, "int8"), Step(), RoundedLinear(64, OUTPUTS, "int8")).requires_grad_(
        False
    )
    x, slopes = batch()
    credit, before = Credit(module), float((module(x) * slopes).sum())
    credit.measure(x, sigma=0.1, noise=np.random.default_rng(100))
    only = "0.weight", "0.bias"  # the layer behind the steps
    for i in range(100):
        found = credit.estimate(x, lambda _: slopes, sigma=0.1, noise=np.random.default_rng(i))
        for name in only:
            module.get_parameter(name).add_(0.5 * found[name])
    assert float((module(x) * slopes).sum()) > before + 5


def test_what_cannot_be_credited_is_refused():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.offset = nn.Parameter(torch.zeros(3))

    with pytest.raises(ConfigError, match="offset: belongs to no linear layer"):
        Credit(Own())
    twice = nn.Linear(5, 5)
    module = nn.Sequential(twice, nn.Tanh(), twice)
    wide = nn.Sequential(nn.Linear(5, 5), nn.ZeroPad1d(1), nn.Linear(7, 2))
    squashed = nn.Sequential(nn.Linear(5, 5), nn.Tanh())
    for odd, text in ((module, "is used twice"), (wide, "not followed by a function of"), (squashed, "not a chain")):
        with pytest.raises(ConfigError, match=text):
            Credit(odd).measure(torch.zeros(2, 5), sigma=0.1, noise=np.random.default_rng(0))

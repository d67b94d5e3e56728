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


def estimates(module, x, slopes, count, sigma=0.01):
    credit = Credit(module)
    credit.measure(x, sigma=sigma, noise=np.random.default_rng(count))
    return [credit.estimate(x, lambda _: slopes, sigma=sigma, noise=np.random.default_rng(i)) for i in range(count)]


def cosine(one, other):
    return float(one.flatten().dot(other.flatten()) / one.norm() / other.norm())


def flat(named):
    return torch.cat([value.reshape(-1) for value in named.values()])


@pytest.mark.parametrize(
    ("settings", "least"),
    [({}, 0.99), ({"norm": True}, 0.93), ({"bias": False}, 0.99)],
    ids=["plain", "layer norm", "no bias"],
)
def test_the_mean_is_the_gradient_of_each_layer(settings, least):
    """Of what comes after a layer norm the influence differs between rows, and only its mean counts."""
    module, (x, slopes) = network(64, 64, **settings), batch()
    exact = gradient(module, x, slopes)
    found = estimates(module, x, slopes, 400)
    assert list(found[0]) == list(exact)
    for name in exact:
        mean = torch.stack([one[name] for one in found[100:]]).mean(0)  # after the influence is known well
        assert cosine(mean, exact[name]) >= least
        assert float(mean.norm() / exact[name].norm()) == pytest.approx(1, abs=0.1 if least > 0.98 else 0.25)


def test_a_single_batch_is_close_to_the_gradient_in_a_deep_network():
    """Noise in the influence alone remains, and it falls with the rows that were seen."""
    module = network(64, 64, 64, 64)
    x, slopes = torch.randn(512, 5), torch.randn(512, OUTPUTS)
    exact = gradient(module, x, slopes)
    for found, least in zip(estimates(module, x, slopes, 30)[::29], (0.7, 0.97), strict=True):
        assert min(cosine(found[name], exact[name]) for name in exact) > least


def test_over_all_signs_one_member_has_the_mean_of_a_pair_whatever_the_function(monkeypatch):
    """Exactly, for steps too, once the influence is known."""
    torch.manual_seed(0)
    module, (x, slopes) = nn.Sequential(nn.Linear(5, 3), Step(), nn.Linear(3, OUTPUTS)), batch()
    credit, sigma, mean, pairs = Credit(module), 0.3, 0.0, 0.0
    for signs in itertools.product((-1.0, 1.0), repeat=3):
        drawn = torch.tensor(signs).expand(ROWS, 3)
        monkeypatch.setattr(credits, "_signs", lambda noise, like, drawn=drawn: drawn.clone())
        credit._influence = {"0": credits._Influence(module[2].weight.detach(), torch.ones(3))}
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


def test_the_influence_of_activations_is_the_matrix_that_follows():
    module = network(16, 8)
    credit, x = Credit(module), torch.randn(4000, 5)
    credit.measure(x, sigma=0.01, noise=np.random.default_rng(0))
    for name, after in (("0", module[2]), ("2", module[4])):
        matrix = after.weight.detach()
        assert 0 < float((credit._influence[name].slope - matrix).norm() / matrix.norm()) < 0.1


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

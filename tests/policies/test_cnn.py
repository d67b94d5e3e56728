"""The convolutional policy, the members of convolutions, and images as numbers."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.func import functional_call

from es_rl import policies
from es_rl.envs.spaces import Packer, shape_of
from es_rl.errors import ConfigError
from es_rl.noise import Perturbation, member_weights
from es_rl.policies.cnn import CnnPolicy, features
from es_rl.policies.config import CnnConfig
from es_rl.population import perturb
from es_rl.population.layers import convolution
from es_rl.rl.actors import TorchForward, policy_actor
from es_rl.rl.config import parse_train

PICTURE = spaces.Box(0, 255, (16, 16, 3), np.uint8)
MIXED = spaces.Dict({"a": spaces.Box(-1, 1, (3,)), "b": PICTURE, "c": spaces.Box(0, 255, (2, 16, 16), np.uint8)})
SMALL = ["cnn.channels=[8,8]", "cnn.kernels=[5,3]", "cnn.strides=[2,1]", "cnn.width=16"]


def make(space, *keys, policy="cnn", action=None):
    torch.manual_seed(0)
    config = parse_train(["env=A-v0", f"policy={policy}", *keys])
    return policies.make(config, shape_of(space), action or spaces.Box(-1, 1, (2,)))


def rows(space, n):
    space.seed(1)
    pack = Packer(space)
    return np.stack([pack(space.sample()) for _ in range(n)])


def explicit(module, x, p, members, k):
    """What each member computes alone with its explicit weights."""
    parts = [
        functional_call(module, member_weights(module, member, p), (x[i * k : (i + 1) * k],))
        for i, member in enumerate(members)
    ]
    return torch.cat([part[0] if isinstance(part, tuple) else part for part in parts])


@pytest.mark.parametrize("space", [PICTURE, MIXED], ids=["picture", "mixed"])
@pytest.mark.parametrize(("kind", "rank"), [("lowrank", 1), ("lowrank", 2), ("dense", 1), ("orthogonal", 1)])
def test_members_are_those_with_explicit_weights(space, kind, rank):
    policy = make(space, *SMALL)
    for k in (1, 3):
        p = Perturbation(kind=kind, rank=rank, sigma=0.1, seed=1, generation=2)
        x = torch.from_numpy(rows(space, 6 * k))
        with perturb(policy, range(6), p) as population, torch.inference_mode():
            found, _ = policy(x)
        assert population.together
        expected = explicit(policy, x, p, range(6), k)
        assert (found - expected).abs().max() < 1e-5
        assert (found - policy(x)[0]).abs().max() > 0.05


@pytest.mark.parametrize("alone", [0, 10**9])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups", "side"),
    [
        (8, 4, 0, 1, 1, 20),
        (3, 1, 1, 1, 1, 9),
        (5, 3, 2, 1, 1, 13),
        (2, 4, 0, 1, 1, 11),
        (3, 2, 1, 2, 1, 12),
        (3, 1, 0, 1, 2, 8),
    ],
)
def test_every_square_convolution_has_the_members_of_its_matrix(
    kernel, stride, padding, dilation, groups, side, alone, monkeypatch
):
    """Both ways of dense members: one after another, and as groups."""
    monkeypatch.setattr(convolution, "ALONE", alone)
    torch.manual_seed(0)
    module = nn.Conv2d(4, 6, kernel, stride, padding, dilation, groups)
    x = torch.randn(8, 4, side, side)
    for kind, rank in (("lowrank", 1), ("lowrank", 3), ("dense", 1)):
        p = Perturbation(kind=kind, rank=rank, sigma=0.2, seed=3)
        with perturb(module, range(4), p), torch.inference_mode():
            found = module(x)
        assert (found - explicit(module, x, p, range(4), 2)).abs().max() < 1e-5


def test_images_are_divided_by_255_and_only_numbers_are_normalised():
    policy = make(MIXED, *SMALL)
    front = policy.normalizer
    assert front.inputs == 3 and front.mean.shape == (3,) and front.gathers
    front.count += 4
    front.mean += 0.5
    front.m2 += 4 * 0.25
    front.refresh()
    x = rows(MIXED, 2)
    obs = torch.from_numpy(x)
    numbers = MIXED.seed(1) and [MIXED.sample() for _ in range(2)]
    assert torch.allclose(front.numbers(obs)[0], (torch.tensor(numbers[0]["a"]) - 0.5) / 0.5, atol=1e-6)
    b, c = front.images(obs)
    assert np.allclose(b[1], numbers[1]["b"].transpose(2, 0, 1) / 255) and np.allclose(c[1], numbers[1]["c"] / 255)
    linear = make(MIXED, policy="linear")
    for parameter in linear.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    in_numpy = policy_actor(linear, 2)
    assert not isinstance(in_numpy, TorchForward)
    both = [actor(np.arange(2), x) for actor in (in_numpy, TorchForward(linear, 2))]
    assert np.abs(both[0] - both[1]).max() < 1e-6 and linear.normalizer(obs).shape == (2, 3 + 768 + 512)


def test_a_network_of_ones_own_sees_the_image(monkeypatch):
    seen = []

    def network(observation_space, action_space):
        seen.append(observation_space)
        return nn.Sequential(nn.Conv2d(3, 4, 5), nn.Flatten(), nn.Linear(4 * 144, 2))

    monkeypatch.setattr("es_rl.policies.outside.find", lambda name: network)
    policy = make(PICTURE, policy="mine:network")
    assert seen[0] == spaces.Box(0.0, 1.0, (3, 16, 16), np.float32)
    assert policy(torch.from_numpy(rows(PICTURE, 2)))[0].shape == (2, 2)


@pytest.mark.parametrize(
    ("space", "keys", "said"),
    [
        (spaces.Box(-1, 1, (5,)), [], "policy=cnn: needs observations with an image, and these are 5 numbers"),
        (PICTURE, ["cnn.kernels=[8,4]"], "convolution 2 gets images of 3 × 3 pixels, which are smaller than 4"),
        (
            spaces.Box(0, 255, (600, 800, 3), np.uint8),
            [],
            "hidden layer would have 29,302,784 parameters .* pixels.size",
        ),
        (PICTURE, ["cnn.strides=[1]"], "must have one number for each convolution"),
        (
            spaces.Tuple([PICTURE, spaces.Box(0, 255, (9, 9), np.uint8)]),
            [],
            "images of one size, and these are 16 × 16, 9 × 9",
        ),
    ],
)
def test_what_it_cannot_see_is_refused(space, keys, said):
    with pytest.raises(ConfigError, match=said):
        make(space, *keys)


def test_its_parts_are_those_of_the_keys():
    policy = make(spaces.Box(0, 255, (4, 84, 84), np.uint8))
    assert isinstance(policy, CnnPolicy) and policy.hidden.in_features == 2592
    nature = CnnConfig(channels=[32, 64, 64], kernels=[8, 4, 3], strides=[4, 2, 1], width=512)
    assert features(nature, policy.normalizer.shape) == 3136


def test_a_flat_policy_of_too_many_parameters_is_refused():
    large = spaces.Box(0, 255, (480, 640, 3), np.uint8)
    with pytest.raises(ConfigError, match=r"921,600 numbers of an image .* 58,986,\d+ parameters, and 10,000,000 are"):
        make(large, policy="mlp")
    assert make(large, policy="linear", action=spaces.Discrete(3)).layer.weight.shape == (3, 921600)

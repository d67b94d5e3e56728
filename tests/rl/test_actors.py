"""Acting in NumPy against acting by torch, and both against each member's explicit weights."""

import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch
from conftest import Acting
from gymnasium import spaces
from torch import nn
from torch.func import functional_call

from es_rl import policies
from es_rl.noise import KINDS, Perturbation, member_weights
from es_rl.policies.action import ActionHead
from es_rl.policies.feedforward import Feedforward
from es_rl.policies.mlp import ACTIVATIONS
from es_rl.policies.normalizer import Unnormalized
from es_rl.population.forward import perturb
from es_rl.rl.actors import TorchForward, member_actors, policy_actor
from es_rl.rl.compaction import Compaction
from es_rl.rl.config import parse_train
from es_rl.rl.numpy_policy import NumpyForward

SPACES = {
    "unit": spaces.Box(-1, 1, (3,)),
    "box": spaces.Box(np.float32([-1, 0, -0.4]), np.float32([1, 5, 0.4])),
    "unbounded": spaces.Box(np.float32([-1, -np.inf, 0]), np.float32([1, np.inf, np.inf])),
    "discrete": spaces.Discrete(4, start=3),
}
KEYS = [
    "policy=linear",
    "policy=linear linear.squash=tanh obs_norm=false",
    "policy=mlp mlp.hidden=[7,5] mlp.layer_norm=true",
    *(f"policy=mlp mlp.hidden=[8] mlp.activation={name}" for name in ACTIVATIONS),
    "policy=mlp mlp.hidden=[] mlp.squash=clip",
    "policy=linear obs_first=4 obs_clip=0.5",
    "policy=mlp obs_first=2 obs_norm=false",
]
MEMBERS = range(4, 10)


def make(keys, space="box"):
    policy = policies.make(parse_train(["env=A-v0", *keys.split()]), 6, SPACES[space])
    generator = torch.Generator().manual_seed(0)
    for value in policy.parameters():
        value += 0.5 * torch.randn(value.shape, generator=generator)
    if list(policy.normalizer.buffers()):
        state = policy.state_dict()
        state |= {
            "normalizer.count": torch.tensor(9.0, dtype=torch.float64),
            "normalizer.m2": state["normalizer.m2"] + 5,
        }
        policy.load_state_dict(state)
    return policy


def close(got, expected):
    return np.allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("space", SPACES)
def test_numpy_acts_as_the_policy_itself(keys, space):
    policy, obs = make(keys, space), np.random.default_rng(0).normal(size=(12, 6)) * 3
    actor = policy_actor(policy, 12)
    assert isinstance(actor, NumpyForward)
    expected = policy(torch.from_numpy(obs))[0].numpy()
    seen = obs.copy()
    actions = actor(np.arange(12), obs)
    assert np.array_equal(obs, seen)  # what is given stays as it is
    assert actions.dtype == expected.dtype and actions.shape == expected.shape and close(actions, expected)


@pytest.mark.parametrize("noise", KINDS)
@pytest.mark.parametrize("keys", KEYS[:3])
@pytest.mark.parametrize("episodes", [1, 2])
def test_both_actors_act_as_every_member_alone_also_after_some_are_dropped(noise, keys, episodes):
    policy, p = make(keys), Perturbation(kind=noise, sigma=0.3, seed=1, generation=2, block=4)
    obs = np.random.default_rng(0).normal(size=(len(MEMBERS) * episodes, 6))
    expected = np.concatenate([
        functional_call(policy, member_weights(policy, m, p), (torch.from_numpy(rows),))[0].numpy()
        for m, rows in zip(MEMBERS, np.split(obs, len(MEMBERS)), strict=True)
    ])  # fmt: skip
    everyone = np.arange(len(obs))
    some = everyone[1:]  # one is over, and stays in the batch
    few = np.concatenate([np.arange(i * episodes, (i + 1) * episodes) for i in (1, 5)])[1:]  # the batch shrinks
    with member_actors(policy, MEMBERS, p, episodes) as numpy_actor, perturb(policy, MEMBERS, p) as population:
        torch_actor = TorchForward(policy, len(obs), population, episodes)
        for one in (numpy_actor(), torch_actor, numpy_actor()):
            actor = Acting(one, len(obs))
            for running in (everyone, everyone, some, some, few, few[:1]):
                seen = obs.copy()
                assert close(actor(running, obs[running]), expected[running])
                assert np.array_equal(obs, seen)


class Memory(nn.Module):
    """Acts by the sum of all that it has seen."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, obs, state=None):
        state = obs.float() if state is None else state + obs.float()
        return self.layer(state), state


def test_a_policy_with_memory_acts_by_torch_and_forgets_nothing_of_those_that_stay():
    policy, p = Memory().requires_grad_(False), Perturbation(sigma=0.1)
    obs = np.arange(8.0).reshape(4, 2)
    with member_actors(policy, range(4), p) as actor:
        assert isinstance(actor(), TorchForward)
        one = Acting(actor(), 4)
        one(np.arange(4), obs)
        seen = one(np.array([1, 3]), obs[[1, 3]])
        for row, member in zip(seen, (1, 3), strict=True):
            weights = member_weights(policy, member, p)
            assert close(
                row, weights["layer.weight"] @ torch.from_numpy(2 * obs[member]).float() + weights["layer.bias"]
            )
        assert not close(actor()(np.arange(4), obs)[[1, 3]], seen)  # a new actor has seen nothing


def test_a_chain_with_a_layer_that_numpy_does_not_know_acts_by_torch():
    policy = make("policy=mlp")
    policy.network = nn.Sequential(OrderedDict(odd=nn.Bilinear(1, 1, 1)))
    assert isinstance(policy_actor(policy, 3), TorchForward)


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Tanh()

    def forward(self, x):
        return 2 * self.inner(x)


SHARED, TWICE = nn.Linear(4, 4), nn.Tanh()
STRANGE = {
    "residual": Residual(nn.Linear(4, 4), nn.Tanh()),
    "doubled": Doubled(),
    "rows": nn.Softmax(dim=1),
    "shared": nn.Sequential(SHARED, nn.Tanh(), SHARED),
    "twice": nn.Sequential(TWICE, nn.Linear(4, 4), TWICE),
}


@pytest.mark.parametrize("name", STRANGE)
def test_whatever_layers_a_policy_has_it_acts_as_it_is_written(name):
    head = ActionHead(SPACES["unit"], "tanh")
    net = nn.Sequential(nn.Linear(6, 4), STRANGE[name], nn.Linear(4, 3))
    policy = Feedforward(Unnormalized(6), head, net=net).requires_grad_(False).eval()
    obs, p = np.random.default_rng(0).normal(size=(4, 6)), Perturbation(sigma=0.1)
    with member_actors(policy, range(4), p) as actor:
        acted = actor()(np.arange(4), obs)
    for i in range(4):
        member = copy.deepcopy(policy)
        member.load_state_dict(member_weights(policy, i, p), strict=False)  # "shared" has two names for the same
        assert close(acted[i : i + 1], member(torch.from_numpy(obs[i : i + 1]))[0].numpy())


def test_actions_are_those_of_the_newest_observations():
    policy, rng = make(KEYS[0]), np.random.default_rng(0)
    actor = Acting(policy_actor(policy, 4), 4)
    for running in (np.arange(4), np.arange(4), np.array([0, 1, 3]), np.array([0, 1, 3]), np.array([1])):
        obs = rng.normal(size=(len(running), 6))
        assert close(actor(running, obs), policy(torch.from_numpy(obs))[0].numpy())


@pytest.mark.parametrize("noise", KINDS)
@pytest.mark.parametrize("keys", [key for key in KEYS if "obs_first" not in key])
def test_no_bit_of_a_members_actions_depends_on_those_beside_it(noise, keys):
    policy, p = make(keys), Perturbation(kind=noise, sigma=0.3, seed=1, generation=2, block=8)
    obs = np.random.default_rng(0).normal(size=(16, 6)) * 3
    with member_actors(policy, range(16), p) as actor:
        together = actor()(np.arange(16), obs)
    for first, n in ((0, 1), (3, 1), (5, 7), (15, 1), (2, 14)):
        with member_actors(policy, range(first, first + n), p) as actor:
            assert np.array_equal(actor()(np.arange(n), obs[first : first + n]), together[first : first + n])
    everyone = policy_actor(policy, 16)(np.arange(16), obs)
    assert np.array_equal(policy_actor(policy, 1)(np.arange(1), obs[9:10]), everyone[9:10])


def test_rows_that_leave_are_filled_from_the_end():
    rows = np.arange(10, 18)
    leaving = np.isin(rows, [11, 12, 16])
    gaps = Compaction.of(leaving)
    assert gaps.apply(rows).tolist() == [10, 15, 17, 13, 14]
    assert Compaction.of(np.ones(3, bool)).apply(np.arange(3)).size == 0
    assert Compaction.of(np.zeros(3, bool)).apply(np.arange(3)).tolist() == [0, 1, 2]

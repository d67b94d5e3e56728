"""The policies with a GRU and an LSTM: what they remember, alone and beside others, and what it is good for."""

import numpy as np
import pytest
import torch
from conftest import Acting, comparable, metrics, model_hash
from gymnasium import spaces
from torch import nn
from torch.func import functional_call

from es_rl import policies
from es_rl.envs.toys import recall
from es_rl.noise import KINDS, Perturbation, member_weights
from es_rl.policies.feedforward import Feedforward
from es_rl.population.forward import perturb
from es_rl.population.members import members_of
from es_rl.rl.actors import TorchForward, member_actors, numpy_layers, policy_actor
from es_rl.rl.compaction import Compaction
from es_rl.rl.config import parse_train
from es_rl.rl.numpy_policy import NumpyForward

NAMES = ("gru", "lstm")
STEPS = 15
WHOLE = {"gru": nn.GRU, "lstm": nn.LSTM}


def make(name, space=None):
    keys = ["env=A-v0", f"policy={name}", f"{name}.width=7"]
    policy = policies.make(parse_train(keys), 4, spaces.Box(-1, 1, (2,)) if space is None else space)
    generator = torch.Generator().manual_seed(0)
    for value in policy.parameters():
        value += 0.5 * torch.randn(value.shape, generator=generator)
    return policy


def observations(n, steps=STEPS):
    return np.random.default_rng(0).normal(size=(steps, n, 4))


def alone(policy, member, p, obs):
    """Actions of one member with its explicit weights: obs (T, k, O) → (T, k, A)."""
    weights, state, actions = {} if member is None else member_weights(policy, member, p), None, []
    for row in obs:
        action, state = functional_call(policy, weights, (torch.from_numpy(row), state))
        actions.append(action.numpy())
    return np.stack(actions)


def close(got, expected):
    return np.allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2,)), spaces.Discrete(3)], ids=["box", "discrete"])
def test_steps_with_memory_are_one_pass_of_torchs_layer_over_the_whole_history(name, space):
    policy, obs = make(name, space), torch.from_numpy(observations(5))
    layer = WHOLE[name](4, 7)
    layer.load_state_dict({f"{key}_l0": value for key, value in policy.cell.state_dict().items()})
    with torch.no_grad():
        hidden, _ = layer(policy.normalizer(obs))  # (T, n, H)
        expected = policy.head(policy.out(hidden).flatten(0, 1)).unflatten(0, (STEPS, 5))
    assert close(alone(policy, None, None, obs.numpy()), expected)
    assert len(torch.unique(expected)) > 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("noise", KINDS)
def test_every_member_steps_as_it_would_alone_in_numpy_and_in_torch(name, noise):
    policy, p, episodes = make(name), Perturbation(kind=noise, sigma=0.2, rank=2, block=4), 2
    members, n = range(2, 8), 6 * episodes
    obs = observations(n)
    expected = np.concatenate(
        [
            alone(policy, member, p, obs[:, i * episodes : (i + 1) * episodes]) for i, member in enumerate(members)
        ], axis=1
    )  # fmt: skip
    everyone, few = np.arange(n), np.arange(episodes, 3 * episodes)  # few: the batch of torch shrinks
    with member_actors(policy, members, p, episodes) as in_numpy, perturb(policy, members, p) as population:
        assert isinstance(in_numpy(), NumpyForward)
        for actor in (in_numpy(), TorchForward(policy, n, population, episodes), in_numpy()):
            act = Acting(actor, n)
            for t in range(STEPS):
                running = everyone if t < 4 else everyone[1:] if t < 8 else few
                assert close(act(running, obs[t, running]), expected[t, running])


class Rows:
    """Episodes that begin and end at any time beside one another: keeps what each of them did."""

    def __init__(self, actor):
        self.actor, self.running, self.steps, self.acted = actor, [], {}, {}

    def begin(self, *episodes):
        self.running += episodes
        for episode in episodes:
            self.steps[episode], self.acted[episode] = 0, []

    def end(self, *episodes):
        leaving = np.isin(self.running, episodes)
        gaps = Compaction.of(leaving)
        self.actor.drop(gaps)
        self.running = gaps.apply(np.array(self.running)).tolist()

    def step(self, obs):
        rows = np.stack([obs[self.steps[episode], episode] for episode in self.running])
        for episode, action in zip(self.running, self.actor(np.array(self.running), rows), strict=True):
            self.acted[episode].append(action)
            self.steps[episode] += 1


def at_any_time(rows, obs, join):
    """Play 12 episodes: some begin in the midst of others, and 5 ends before its first step."""
    join(0, 4)
    rows.begin(0, 1, 2, 3)
    for _ in range(3):
        rows.step(obs)
    rows.end(1)
    join(4, 8)
    rows.begin(4, 5, 6, 7)
    rows.end(5, 2)
    for _ in range(4):
        rows.step(obs)
    rows.end(0, 3, 4, 6)
    rows.step(obs)
    rows.end(7)
    join(8, 12)
    rows.begin(8, 9, 10, 11)
    rows.end(8, 9)
    for _ in range(5):
        rows.step(obs)
    assert sorted(map(len, rows.acted.values())) == [0, 0, 0, 3, 3, 4, 4, 5, 5, 5, 7, 7]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("noise", ["dense", "lowrank", "orthogonal"])
def test_no_bit_of_an_episode_depends_on_those_that_begin_and_end_beside_it(name, noise):
    policy, p, obs = make(name), Perturbation(kind=noise, sigma=0.3, rank=2, block=8), observations(12)
    forward = NumpyForward(numpy_layers(policy), 8)
    together = Rows(forward)
    at_any_time(together, obs, lambda a, b: forward.join(members_of(policy, range(a, b), p)))
    for member, acted in together.acted.items():
        with member_actors(policy, [member], p) as begin:
            one = begin()
            for t, action in enumerate(acted):
                assert np.array_equal(one(np.arange(1), obs[t, [member]])[0], action)


@pytest.mark.parametrize("name", NAMES)
def test_no_bit_of_an_evaluation_depends_on_those_that_begin_and_end_beside_it(name):
    policy, obs = make(name), observations(12)
    together = Rows(policy_actor(policy, 0))
    at_any_time(together, obs, lambda a, b: None)
    for episode, acted in together.acted.items():
        one = policy_actor(policy, 1)
        for t, action in enumerate(acted):
            assert np.array_equal(one(np.arange(1), obs[t, [episode]])[0], action)
        assert not acted or close(np.stack(acted), alone(policy, None, None, obs[: len(acted), [episode]])[:, 0])


def test_cells_that_forget_are_left_to_torch():
    """In a chain without memory, a cell begins anew at each step."""
    policy = make("gru")
    policy = Feedforward(policy.normalizer, policy.head, cell=policy.cell, out=policy.out)
    assert isinstance(policy_actor(policy, 3), TorchForward)
    actor, obs = policy_actor(policy, 3), observations(3)[0]
    assert np.array_equal(actor(np.arange(3), obs), actor(np.arange(3), obs))


@pytest.mark.parametrize(
    ("keys", "others"),
    [
        ("policy=gru gru.width=8", ["workers=2 chunk=4", "workers=1 inference=central"]),
        ("policy=lstm lstm.width=8 es.noise=lowrank es.rank=2 es.episodes=2", ["workers=0 chunk=4"]),
    ],
)
@pytest.mark.slow
def test_theta_is_the_same_for_any_chunks_and_workers_and_after_a_resume(train, keys, others):
    common = ["env=CartPole-v1", "es.population=16", "es.sigma=0.3", "eval.every=0", "video.every=-1", *keys.split()]
    whole = train(*common, "generations=2", "workers=0", "chunk=16", run="whole")
    resumed = train(*common, "generations=1", "workers=0", "chunk=8", run="resumed")
    train(f"resume={resumed}", "generations=2")
    assert model_hash(resumed) == model_hash(whole)
    for i, other in enumerate(others):
        run = train(*common, "generations=2", *other.split(), run=f"other{i}")
        assert model_hash(run) == model_hash(whole) and comparable(run) == comparable(whole)


@pytest.mark.slow
def test_recall_is_solved_by_recurrent_memory_and_not_without(train):
    keys = [f"env={recall.ID}", "es.noise=lowrank", "es.population=64", "es.sigma=0.2", "optim.lr=0.1"]
    keys += ["eval.every=10", "eval.episodes=100"]
    for name in NAMES:
        stop = [f"target_return={recall.SOLVED}", "generations=100", f"policy={name}", f"{name}.width=16"]
        remembers = metrics(train(*keys, *stop, run=name))
        assert remembers[-1]["eval/return_mean"] >= recall.SOLVED
    forgets = metrics(train(*keys, "policy=mlp", f"generations={remembers[-1]['generation']}", run="without"))
    assert forgets[-1]["eval/return_mean"] < 0.3  # chance is 0 ± 0.1

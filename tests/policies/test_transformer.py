"""The transformer policy: a step with its memory is the whole history; and what memory is good for."""

import numpy as np
import pytest
import torch
from conftest import Acting, metrics
from gymnasium import spaces
from torch.func import functional_call
from torch.nn import functional as F

from es_rl import policies
from es_rl.envs.toys import recall
from es_rl.errors import ConfigError
from es_rl.noise import Perturbation, member_weights
from es_rl.rl.actors import TorchForward, member_actors
from es_rl.rl.config import parse_train

CONTEXT, STEPS = 5, 23  # long past the ring's wrap


def make(space, layers=2):
    keys = f"env=A-v0 policy=transformer transformer.width=12 transformer.heads=3 transformer.context={CONTEXT}"
    policy = policies.make(parse_train([*keys.split(), f"transformer.layers={layers}"]), 4, space)
    policy.out.weight *= 100  # what it says, and sees again, shall matter
    return policy


def whole(policy, tokens):
    """All steps at once with a causal mask of a sliding window: tokens (n, T, inputs) → outputs (n, T, outputs)."""
    x = policy.embed(tokens)
    n, T, width = x.shape
    distance = torch.arange(T)[:, None] - torch.arange(T)[None]
    slopes = torch.tensor([2.0 ** (-8 * (h + 1) / 3) for h in range(3)])
    penalty = torch.where((distance >= 0) & (distance < CONTEXT), -slopes[:, None, None] * distance, -torch.inf)
    for block in policy.blocks:
        q, k, v = block.qkv(F.layer_norm(x, (width,))).reshape(n, T, 3, 3, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + penalty).softmax(-1)
        x = x + block.mix((weights @ v).transpose(1, 2).reshape(n, T, width))
        x = x + block.narrow(F.relu(block.wide(F.layer_norm(x, (width,)))))
    return policy.out(F.layer_norm(x, (width,)))


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2,)), spaces.Discrete(3)], ids=["box", "discrete"])
@pytest.mark.parametrize("layers", [1, 3])
def test_steps_with_memory_are_one_pass_over_the_whole_history(space, layers):
    policy = make(space, layers)
    obs = torch.randn(6, STEPS, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    state, actions, tokens = None, [], []
    for t in range(STEPS):
        said = torch.zeros(6, policy.head.outputs) if state is None else state[2]
        tokens.append(torch.cat([policy.normalizer(obs[:, t]), said], dim=-1))
        action, state = policy(obs[:, t], state)
        actions.append(action)
    expected = policy.head(whole(policy, torch.stack(tokens, 1)).flatten(0, 1)).unflatten(0, (6, STEPS))
    assert torch.allclose(torch.stack(actions, 1).double(), expected.double(), atol=1e-5)
    assert len(torch.unique(torch.stack(actions))) > 2


@pytest.mark.parametrize("kind", ["dense", "lowrank"])
@pytest.mark.parametrize("episodes", [1, 2])
def test_every_member_steps_as_it_would_alone(kind, episodes):
    policy, p = make(spaces.Box(-1, 1, (2,))), Perturbation(kind=kind, sigma=0.2)
    obs = np.random.default_rng(0).normal(size=(STEPS, 4 * episodes, 4))
    with member_actors(policy, range(4), p, episodes) as actor:
        assert isinstance(actor(), TorchForward)
        act = Acting(actor(), 4 * episodes)
        actions = [act(np.arange(4 * episodes), o) for o in obs[:9]]
        kept = np.arange(episodes, 3 * episodes)  # two of the members run on
        actions += [act(kept, o[kept]) for o in obs[9:]]
        for member in (1, 2):
            at, state = slice(member * episodes, (member + 1) * episodes), None
            later = slice((member - 1) * episodes, member * episodes)
            weights = member_weights(make(spaces.Box(-1, 1, (2,))), member, p)
            for t in range(STEPS):
                expected, state = functional_call(
                    make(spaces.Box(-1, 1, (2,))), weights, (torch.from_numpy(obs[t, at]), state)
                )
                acted = actions[t][at if t < 9 else later]
                assert np.abs(acted - expected.numpy()).max() <= 1e-5 * max(1.0, np.abs(expected.numpy()).max())


def test_a_width_that_the_heads_cannot_share_is_refused():
    with pytest.raises(ConfigError, match=r"transformer.width=10: must be a multiple of transformer.heads=4"):
        parse_train(["env=A-v0", "policy=transformer", "transformer.width=10"])


@pytest.mark.soak  # `test_recurrent` has the same for another memory
def test_recall_is_solved_by_memory_and_by_nothing_else(train):
    keys = [f"env={recall.ID}", "es.noise=lowrank", "es.population=128", "eval.every=10", "eval.episodes=100"]
    small = ["transformer.layers=1", "transformer.width=16", f"target_return={recall.SOLVED}"]
    remembers = metrics(train(*keys, *small, "policy=transformer", "generations=150", run="with"))
    assert remembers[-1]["eval/return_mean"] >= recall.SOLVED
    forgets = metrics(train(*keys, "policy=mlp", f"generations={remembers[-1]['generation']}", run="without"))
    assert forgets[-1]["eval/return_mean"] < 0.3  # chance is 0 ± 0.1

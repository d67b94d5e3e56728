"""The action head over all kinds of spaces: actions are of the space; many members act as each does alone."""

import looking
import numpy as np
import pytest
import torch
from choosing import SPACES, is_of
from gymnasium import spaces
from torch.func import functional_call

from es_rl import policies
from es_rl.envs.spaces import leaves, row_type, to_action
from es_rl.noise import Perturbation, member_weights
from es_rl.policies.action import ActionHead
from es_rl.population.forward import perturb
from es_rl.rl.actors import NumpyForward, member_actors
from es_rl.rl.config import parse_train
from es_rl.rl.kernels.action import in_numpy

MEMBERS = range(4, 10)


def outputs(head, n=40):
    """Outputs of a network: small, large, and exactly zero."""
    x = torch.randn(n, head.outputs, generator=torch.Generator().manual_seed(0))
    x[: n // 2] *= 1e4
    x[-1] = 0
    return x


def has_numbers(space):
    return any(isinstance(leaf, spaces.Box) for _, leaf in leaves(space))


@pytest.mark.parametrize("squash", ["clip", "tanh"])
@pytest.mark.parametrize("kind", SPACES)
def test_any_outputs_become_an_action_of_the_space_in_torch_and_in_numpy(kind, squash):
    space = SPACES[kind]
    head = ActionHead(space, squash)
    x = outputs(head)
    rows = head(x.clone()).numpy()
    assert head.outputs == spaces.flatdim(space)
    assert (rows.shape[1:], rows.dtype) == (row_type(space)[0], np.dtype(row_type(space)[1]))
    assert all(is_of(space, to_action(space, row)) for row in rows)
    others = in_numpy(head)(x.numpy().copy())
    assert others.dtype == rows.dtype and others.shape == rows.shape
    assert np.allclose(others, rows, rtol=1e-5, atol=1e-5) if has_numbers(space) else np.array_equal(others, rows)
    one_by_one = [in_numpy(head)(row[None].copy())[0] for row in x.numpy()]
    assert np.array_equal(one_by_one, others)  # no bit of a row depends on those beside it
    assert len(np.unique(rows, axis=0)) > 1 or kind == "one choice"
    assert head.said(x).shape == x.shape and head.said(x).abs().max() <= 1


def test_each_kind_of_space_reads_the_outputs_as_the_documentation_says():
    choices = spaces.MultiDiscrete([[2, 3], [2, 2]], start=[[0, 5], [-1, 0]])
    head = ActionHead(choices, "clip")
    row = head(torch.tensor([[1.0, 2.0, 7.0, 0.0, 1.0, 3.0, 2.0, 4.0, 4.0]]))[0].numpy()
    assert to_action(choices, row).tolist() == [[1, 5], [-1, 0]]  # the first of equal ones
    bits = ActionHead(spaces.MultiBinary([2, 2]), "clip")(torch.tensor([[0.1, 0.0, -0.1, 9.0]]))[0].numpy()
    assert to_action(spaces.MultiBinary([2, 2]), bits).tolist() == [[1, 0], [0, 1]]
    both = spaces.Dict([("z", spaces.Discrete(3, start=4)), ("a", spaces.Tuple([spaces.Box(-2, 2, ()), choices]))])
    x = torch.tensor([[0.0, 1.0, 0.0, 0.25, 1.0, 2.0, 7.0, 0.0, 1.0, 3.0, 2.0, 4.0, 4.0]])
    action = to_action(both, ActionHead(both, "clip")(x)[0].numpy())
    assert list(action) == ["z", "a"] and action["z"] == 5 and action["a"][0] == 0.5
    assert action["a"][1].tolist() == [[1, 5], [-1, 0]]
    assert ActionHead(both, "clip").said(x)[0].tolist() == pytest.approx(
        [0, 1, 0, np.tanh(0.25), 0, 1, 1, 0, 0, 1, 0, 1, 0]
    )


def policy_of(name, kind):
    keys = ["transformer.width=8", "transformer.layers=1"] if name == "transformer" else looking.SMALL.get(name, [])
    policy = policies.make(parse_train(["env=A-v0", f"policy={name}", *keys]), looking.shape_for(name), SPACES[kind])
    generator = torch.Generator().manual_seed(0)
    for value in policy.parameters():
        value += 0.5 * torch.randn(value.shape, generator=generator)
    return policy


@pytest.mark.parametrize("name", policies.POLICIES)
@pytest.mark.parametrize(
    ("kind", "noise"), [("grid of choices", "dense"), ("grid of bits", "lowrank"), ("nested", "lowrank")]
)
def test_all_members_act_as_each_alone(name, kind, noise):
    policy, p, k = policy_of(name, kind), Perturbation(kind=noise, sigma=0.3, seed=1), 3
    seen = [looking.observations(name, len(MEMBERS) * k, seed=i) for i in (1, 2)]
    with perturb(policy, MEMBERS, p):
        first, state = policy(seen[0])
        second, _ = policy(seen[1], state)
    for i, member in enumerate(MEMBERS):
        weights, rows = member_weights(policy, member, p), slice(k * i, k * i + k)
        one, state = functional_call(policy, weights, (seen[0][rows],))
        other, _ = functional_call(policy, weights, (seen[1][rows], state))
        for got, alone in ((first, one), (second, other)):
            assert got.dtype == alone.dtype
            assert torch.allclose(got[rows].double(), alone.double(), rtol=1e-5, atol=1e-5)
    with member_actors(policy, MEMBERS, p, k) as begin:
        actor = begin()
        assert isinstance(actor, NumpyForward) == (name not in ("transformer", "cnn"))
        acted = actor(np.arange(len(MEMBERS) * k), seen[0].numpy())
    assert acted.dtype == first.numpy().dtype and np.allclose(acted, first.numpy(), rtol=1e-5, atol=1e-5)


def test_large_whole_numbers_stay_within_their_bounds():
    """float32 has no 2**63 - 1: it would round up."""
    for low, high, dtype in ((0, 2**63 - 1, np.int64), (0, 2**64 - 1, np.uint64), (-(2**31), 2**31 - 1, np.int32)):
        space = spaces.Box(low, high, (2,), dtype)
        for x in (-9e30, 0.0, 9e30):
            action = to_action(space, ActionHead(space, "clip")(torch.full((1, 2), x))[0].numpy())
            assert is_of(space, action), (space, x, action)

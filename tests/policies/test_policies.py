"""Contracts over the registry of policies; the action head; the normaliser."""

import looking
import numpy as np
import pytest
import torch
from gymnasium import spaces

from es_rl import policies
from es_rl.envs.spaces import to_action
from es_rl.errors import ConfigError
from es_rl.noise import Perturbation
from es_rl.policies.action import ActionHead
from es_rl.policies.normalizer import STD_FLOOR, Moments, Normalizer, merge
from es_rl.population.forward import perturb
from es_rl.rl.config import parse_train

BOX = spaces.Box(np.float32([-1, 0, -0.4]), np.float32([1, 5, 0.4]))


def make(name, *keys, space=BOX):
    config = parse_train(["env=A-v0", f"policy={name}", *looking.SMALL.get(name, []), *keys])
    return policies.make(config, looking.shape_for(name), space)


@pytest.mark.parametrize("name", policies.POLICIES)
@pytest.mark.parametrize(
    "space", [BOX, spaces.Discrete(4, start=3), spaces.Box(-2, 2, (2, 3))], ids=["box", "discrete", "matrix"]
)
def test_actions_are_of_the_action_space_for_any_observation(name, space):
    policy = make(name, space=space)
    obs = looking.observations(name, 50, spread=1e4)
    with perturb(policy, range(50), Perturbation(sigma=3.0)):
        action, _ = policy(obs)
    for row in action.numpy():
        assert space.contains(row if space.shape == () else row.reshape(space.shape).astype(space.dtype))
    assert len(np.unique(action.numpy(), axis=0)) > 1


@pytest.mark.parametrize("name", policies.POLICIES)
def test_a_policy_is_a_function_of_the_seed_and_leaves_the_global_generator_alone(name):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same = make(name).state_dict(), make(name).state_dict()
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[k], same[k]) for k in one)
    if name != "linear":
        other = make(name, "seed=1").state_dict()
        assert any(not torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("name", policies.POLICIES)
def test_the_first_actions_are_in_the_middle_of_the_space(name):
    action, _ = make(name)(looking.observations(name, 20))
    assert np.allclose(action.numpy(), [0, 2.5, 0], atol=0.1)


def test_keys_of_the_mlp_make_its_network():
    policy = make("mlp", "mlp.hidden=[7,5]", "mlp.layer_norm=true", "mlp.activation=relu", "obs_norm=false")
    kinds = [type(layer).__name__ for layer in policy.network]
    assert kinds == ["Linear", "LayerNorm", "ReLU"] * 2 + ["Linear"]
    assert not list(policy.normalizer.buffers())
    shapes = [tuple(p.shape) for n, p in policy.named_parameters() if n.endswith("weight") and p.ndim == 2]
    assert shapes == [(7, 6), (5, 7), (3, 5)]


@pytest.mark.parametrize("norm", ["true", "false"])
def test_a_policy_sees_the_first_numbers_only_if_told_so(norm):
    policy = make("mlp", "obs_first=2", f"obs_norm={norm}")
    assert dict(policy.named_parameters())["network.0.weight"].shape == (64, 2)
    x = torch.randn(3, 6, dtype=torch.float64)
    other = torch.cat([x[:, :2], torch.randn(3, 4, dtype=torch.float64)], dim=1)
    assert torch.equal(policy(x)[0], policy(other)[0]) and not torch.equal(policy(x)[0], policy(other.flip(1))[0])
    assert make("linear", "obs_first=9").state_dict()["layer.weight"].shape == (3, 6)  # there are no more


def test_normalised_observations_are_cut_off():
    policy = make("linear", "obs_clip=2.5")
    assert policy.normalizer(torch.tensor([[9.0, -9.0, 1.0, 0, 0, 0]])).tolist() == [[2.5, -2.5, 1.0, 0, 0, 0]]


def test_unbounded_dimensions_get_the_raw_output_and_half_bounded_ones_are_clipped():
    head = ActionHead(spaces.Box(np.float32([-1, -np.inf, 0]), np.float32([1, np.inf, np.inf])), "tanh")
    out = head(torch.tensor([[100.0, 100.0, 100.0], [-100.0, -100.0, -100.0]]))
    assert out.tolist() == [[1, 100, 100], [-1, -100, 0]]


def test_clip_and_tanh():
    space = spaces.Box(-2, 4, (1,))
    x = torch.tensor([[-9.0], [0.0], [0.5], [9.0]])
    assert ActionHead(space, "clip")(x).flatten().tolist() == [-2, 1, 2.5, 4]
    assert ActionHead(space, "tanh")(x).flatten().tolist() == pytest.approx([-2, 1, 1 + 3 * np.tanh(0.5), 4], abs=1e-5)


def test_an_unknown_policy_names_the_nearest():
    with pytest.raises(
        ConfigError, match=r"policy=mpl: unknown. Did you mean mlp\? Known: cnn, gru, linear, lstm, mlp, transf"
    ):
        make("mpl")


def statistics(parts):
    """Merge parts one generation after the other, each cut into two chunks."""
    normalizer = Normalizer(3, 10.0)
    buffers = {f"normalizer.{k}": v for k, v in normalizer.state_dict().items()}
    for part in parts:
        mean = buffers["normalizer.mean"].numpy()
        cuts = [part[: len(part) // 3], part[len(part) // 3 :]]
        buffers = merge(buffers, [Moments(len(c), c - mean, np.square(c - mean)) for c in cuts])
    normalizer.load_state_dict({k.removeprefix("normalizer."): v for k, v in buffers.items()})
    return normalizer


def test_merged_statistics_are_those_of_all_observations():
    rng = np.random.default_rng(0)
    parts = [rng.normal([1e6, 0, 5], [1, 1e-3, 100], size=(n, 3)) for n in (7, 400, 33)]
    normalizer, everything = statistics(parts), np.concatenate(parts)
    assert normalizer.count == 440
    assert np.allclose(normalizer.mean, everything.mean(0), rtol=1e-12)
    assert np.allclose(normalizer.m2 / 440, everything.var(0), rtol=1e-4)  # the first mean is 0, 1e6 away
    expected = np.clip((parts[0] - everything.mean(0)) / np.maximum(everything.std(0), STD_FLOOR), -10, 10)
    assert np.allclose(normalizer(torch.from_numpy(parts[0])), expected, atol=1e-4)


def test_a_dimension_that_never_moves_stays_tame_when_it_does():
    normalizer = statistics([np.full((100, 3), 4.0)])
    assert torch.equal(normalizer(torch.full((1, 3), 4.0, dtype=torch.float64)), torch.zeros(1, 3))
    assert normalizer(torch.full((1, 3), 4.01, dtype=torch.float64)).abs().max() < 1.1


def test_no_moments_change_nothing():
    buffers = {f"normalizer.{k}": v for k, v in statistics([np.ones((5, 3))]).state_dict().items()}
    assert merge(buffers, []) == buffers


def test_actions_are_inside_their_space_whatever_its_numbers_are():
    """0.1 in float32 is above 0.1; an integer is the nearest one."""
    low, high = np.array([-0.1, -1e300, -np.inf]), np.array([0.1, 1e300, 0.7])
    space = spaces.Box(low, high, dtype=np.float64)
    for x in (-9.0, 0.0, 9.0):
        action = ActionHead(space, "clip")(torch.full((1, 3), x))[0].numpy()
        assert space.contains(to_action(space, action)), action
    counts = spaces.Box(0, 4, (5,), np.int64)
    action = ActionHead(counts, "clip")(torch.tensor([[-1.0, -0.45, 0.0, 0.4, 1.0]]))[0].numpy()
    assert to_action(counts, action).tolist() == [0, 1, 2, 3, 4]

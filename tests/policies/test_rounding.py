"""Policies with rounded weights: what a rounding is, and that every way to compute a member rounds that member."""

import numpy as np
import pytest
import torch
from conftest import Acting, metrics, model_hash
from gymnasium import spaces
from torch.func import functional_call

from es_rl import policies
from es_rl.errors import ConfigError
from es_rl.noise import KINDS, Perturbation, member_weights
from es_rl.policies.config import WEIGHTS
from es_rl.policies.rounding import ROUNDINGS, RoundedLinear, rounded
from es_rl.population.forward import perturb
from es_rl.rl.actors import TorchForward, member_actors, policy_actor
from es_rl.rl.config import parse_train
from es_rl.rl.numpy_policy import NumpyForward

NETWORKS = {
    "linear": "policy=linear linear.weights={}",
    "mlp": "policy=mlp mlp.hidden=[7,5] mlp.weights={}",
    "normed": "policy=mlp mlp.hidden=[9] mlp.layer_norm=true mlp.weights={}",
}
MEMBERS = range(4, 10)


def make(network, weights):
    policy = policies.make(
        parse_train(["env=A-v0", *NETWORKS[network].format(weights).split()]), 6, spaces.Box(-1, 1, (3,))
    )
    generator = torch.Generator().manual_seed(0)
    for value in policy.parameters():
        value += 0.5 * torch.randn(value.shape, generator=generator)
    return policy


def by_hand(row, kind):
    """One row of weights, number by number."""
    row = [float(x) for x in row]
    if kind == "int8":
        scale = max(map(abs, row)) / 127
        return [round(x / scale) * scale for x in row] if scale else row
    threshold = 0.7 * sum(map(abs, row)) / len(row)
    kept = [abs(x) for x in row if abs(x) > threshold]
    scale = sum(kept) / len(kept) if kept else 0.0
    return [scale * np.sign(x) * (abs(x) > threshold) for x in row]


def rounded_weights(weights, kind):
    """The parameters of one member with its matrices rounded by hand."""
    return {
        name: torch.tensor([by_hand(row, kind) for row in value], dtype=torch.float32) if value.ndim == 2 else value
        for name, value in weights.items()
    }


def close(got, expected):
    return np.allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ROUNDINGS)
def test_a_matrix_is_rounded_row_by_row_as_by_hand(kind):
    w = torch.randn(5, 33, generator=torch.Generator().manual_seed(1))
    w[2] = 0.0
    expected = np.array([by_hand(row, kind) for row in w])
    assert close(rounded(w, kind), expected)
    assert torch.equal(rounded(w, kind)[2], torch.zeros(33))
    levels = [len(np.unique(row)) for row in rounded(w, kind)]
    assert max(levels) <= {"int8": 33, "ternary": 3}[kind] and len(np.unique(rounded(w, kind)[0])) >= 3


@pytest.mark.parametrize("kind", ROUNDINGS)
def test_what_is_rounded_already_stays_and_many_are_rounded_as_one(kind):
    w = torch.randn(64, 9, 21, generator=torch.Generator().manual_seed(1))
    once = rounded(w, kind)
    assert close(rounded(once, kind), once)
    assert all(torch.equal(once[i], rounded(w[i], kind)) for i in range(len(w)))  # to the bit, however it is cut
    assert torch.equal(once[:3], rounded(w[:3].clone(), kind))


@pytest.mark.parametrize("kind", ROUNDINGS)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_policy_computes_with_rounded_weights_in_torch_and_in_numpy(network, kind):
    policy, floats = make(network, kind), make(network, "float")
    obs = np.random.default_rng(0).normal(size=(12, 6))
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), floats.parameters(), strict=True))
    weights = rounded_weights(dict(policy.named_parameters()), kind)
    expected = functional_call(floats, weights, (torch.from_numpy(obs),))[0].numpy()
    actor = policy_actor(policy, 12)
    assert isinstance(actor, NumpyForward)
    assert close(policy(torch.from_numpy(obs))[0], expected) and close(actor(np.arange(12), obs), expected)
    assert not close(floats(torch.from_numpy(obs))[0], expected)


@pytest.mark.parametrize("noise", KINDS)
@pytest.mark.parametrize("kind", ROUNDINGS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_member_is_its_perturbed_weights_rounded_in_torch_and_in_numpy(network, kind, noise, recwarn):
    policy, floats = make(network, kind), make(network, "float")
    p = Perturbation(kind=noise, sigma=0.3, seed=1, generation=2, block=4, rank=2)
    obs = np.random.default_rng(0).normal(size=(len(MEMBERS), 6))
    expected = np.concatenate(
        [
            functional_call(
                floats, rounded_weights(member_weights(policy, member, p), kind), (torch.from_numpy(row[None]),)
            )[0]
            for member, row in zip(MEMBERS, obs, strict=True)
        ]
    )
    with member_actors(policy, MEMBERS, p) as begin:
        actor = begin()
        assert isinstance(actor, NumpyForward)
        assert close(Acting(actor, len(MEMBERS))(np.arange(len(MEMBERS)), obs), expected)
    with perturb(policy, MEMBERS, p) as population:
        actor = TorchForward(policy, len(MEMBERS), population)
        assert close(actor(np.arange(len(MEMBERS)), obs), expected)
        assert population.together
    assert not [w for w in recwarn if "one after the other" in str(w.message)]


@pytest.mark.parametrize("noise", ["dense", "lowrank"])
@pytest.mark.parametrize("kind", ROUNDINGS)
def test_no_bit_of_a_member_depends_on_those_beside_it(noise, kind):
    policy, p = make("mlp", kind), Perturbation(kind=noise, sigma=0.3, seed=1, rank=2)
    obs = np.random.default_rng(0).normal(size=(6,))

    def actions(members):
        with member_actors(policy, members, p) as begin:
            return begin()(np.arange(len(members)), np.tile(obs, (len(members), 1)))

    together = actions(range(16))
    assert np.array_equal(together[4:6], actions(range(4, 6)))


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_float_is_the_default_and_another_word_is_refused(name):
    assert ("float", *ROUNDINGS) == WEIGHTS
    assert getattr(parse_train(["env=A-v0"]), name).weights == WEIGHTS[0]
    assert not [m for m in make(name, "float").modules() if isinstance(m, RoundedLinear)]
    with pytest.raises(ConfigError, match=f"{name}.weights=int4: must be one of float, int8, ternary"):
        parse_train(["env=A-v0", f"{name}.weights=int4"])


@pytest.mark.parametrize("kind", ROUNDINGS)
@pytest.mark.slow
def test_a_rounded_policy_learns_and_is_the_same_however_it_is_cut(train, kind):
    keys = ["env=es_rl/PointMass-v0", "policy=linear", f"linear.weights={kind}", "es.population=32", "es.sigma=0.2"]
    more = ["optim.lr=0.2", "generations=10", "eval.every=10", "eval.episodes=10", "es.noise=lowrank"]
    run = train(*keys, *more, "chunk=4")
    assert model_hash(run) == model_hash(train(*keys, *more, "chunk=16", run="other"))
    assert metrics(run)[0]["fitness/mean"] < -500 and metrics(run)[-1]["eval/return_mean"] > -120

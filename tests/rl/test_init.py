"""A training that starts from the policy of another one, or of PPO."""

import numpy as np
import pytest
import torch
from conftest import refusal, soak
from safetensors.torch import load_file, save_file

from es_rl import envs
from es_rl import train as verb
from es_rl.compare.config import BaselineConfig
from es_rl.compare.opponents.clock import Clock
from es_rl.compare.opponents.ppo_fast import ppo_fast
from es_rl.errors import CheckpointError
from es_rl.rl.chunks import make_policy
from es_rl.rl.config import parse_train

KEYS = ["env=es_rl/PointMass-v0", "policy=mlp", "mlp.hidden=[8]", "es.population=8", "eval.every=0"]


def start(run):
    return load_file(run / "checkpoints/00000000/model.safetensors")


def last(run):
    return load_file(run / "checkpoints/last/model.safetensors")


def assert_equal(one, two):
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_training_starts_where_another_one_ended(train, tmp_path):
    first = train(*KEYS, "generations=2", run="first")
    second = train(*KEYS, "generations=1", "checkpoint.keep=5", f"init={first}", "seed=7", run="second")
    assert_equal(start(second), last(first))
    save_file(last(first), tmp_path / "policy.safetensors")
    third = train(*KEYS, "generations=1", "checkpoint.keep=5", "init=policy.safetensors", "seed=7", run="third")
    assert_equal(last(third), last(second))


def test_a_resume_does_not_need_what_the_run_started_from(train, tmp_path):
    first = train(*KEYS, "generations=1", run="first")
    second = train(*KEYS, "generations=1", f"init={first}", run="second")
    first.rename(tmp_path / "elsewhere")
    train(f"resume={second}", "generations=2")
    assert not torch.equal(last(second)["network.0.weight"], start(tmp_path / "elsewhere")["network.0.weight"])


@pytest.mark.parametrize(
    ("init", "text"),
    [
        ("nowhere", "nowhere: cannot be read"),
        (".", "init=.: a folder of runs"),
        ("text.safetensors", "is not safetensors"),
        ("other", "does not fit the policy; differing: network.0"),
        ("nan.safetensors", "network.0.bias holds numbers that are not finite"),
    ],
)
def test_what_no_training_can_start_from_is_refused(train, tmp_path, init, text):
    run = train(*KEYS, "generations=1", run="mine")
    train(*KEYS[:2], "mlp.hidden=[9]", *KEYS[3:], "generations=1", run="other")
    (tmp_path / "text.safetensors").write_text("hello")
    spoilt = last(run)
    spoilt["network.0.bias"][0] = torch.nan
    save_file(spoilt, tmp_path / "nan.safetensors")
    code, said = refusal(verb.main, *KEYS, "generations=1", "workers=0", f"init={init}", "run=new")
    assert code == CheckpointError.exit_code and text in said and not (tmp_path / "new").exists()


@pytest.mark.parametrize("env", ["Hopper-v4", *soak("Humanoid-v4")])
@pytest.mark.slow
def test_a_policy_of_ppo_acts_alike_as_one_of_ours(env):
    pytest.importorskip("stable_baselines3")
    settings = {"n_steps": 8, "n_envs": 8, "batch_size": 32, "policy_kwargs": {"net_arch": [16, 8]}, "obs_first": 11}
    config = BaselineConfig(name="ppo_fast", env=env, env_steps=300, settings=settings)
    act = ppo_fast(config, Clock(config, None))
    ours = parse_train(
        [f"env={env}", "policy=mlp", "mlp.hidden=[16,8]", "mlp.squash=clip", "obs_first=11", "obs_clip=10"]
    )
    policy = make_policy(ours, envs.probe(env, {}, 0))
    policy.load_state_dict(act.tensors())
    obs = envs.make(env, 50, obs_first=11).reset(range(50), range(50)) + np.random.default_rng(0).normal(size=(50, 11))
    found = policy(torch.from_numpy(obs))[0].numpy()
    np.testing.assert_allclose(found, act.batch(obs), atol=1e-5)
    assert len(np.unique(found)) > 20

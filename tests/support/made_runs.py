"""A run directory without training: a policy with random weights and statistics, of which every number matters."""

from dataclasses import replace

import gymnasium
import torch

from es_rl import es, policies
from es_rl.config import to_yaml
from es_rl.envs.spaces import shape_of
from es_rl.rl.agent import about
from es_rl.rl.config import parse_train
from es_rl.run import checkpoint as checkpoints
from es_rl.run import directory


def make_run(path, env_id, *keys, spread=1.0, seed=1, observation_space=None, action_space=None):
    """Write a run at generation 3. Spaces are those of the environment, or the given ones."""
    config = parse_train([f"env={env_id}", *keys])
    if observation_space is None:
        env = gymnasium.make(env_id.rpartition(":")[2], disable_env_checker=True)
        observation_space, action_space = env.observation_space, env.action_space
        env.close()
    policy = policies.make(config, shape_of(observation_space), action_space)
    generator = torch.Generator().manual_seed(seed)
    for value in policy.parameters():
        value += spread * torch.randn(value.shape, generator=generator) / max(1, value.shape[-1]) ** 0.5
    if hasattr(policy.normalizer, "mean"):
        n = policy.normalizer.inputs
        policy.normalizer.count += 100
        policy.normalizer.mean += 0.1 * torch.randn(n, generator=generator, dtype=torch.float64)
        policy.normalizer.m2 += 100 * torch.rand(n, generator=generator, dtype=torch.float64)
    path.mkdir(parents=True)
    directory.describe(path, config, "python -m es_rl.train")
    state = replace(es.init(policy), generation=3)
    checkpoints.save(
        path, state, checkpoints.Progress(), about=about(observation_space, action_space), config=to_yaml(config),
        keep=1, best=True,
    )  # fmt: skip
    return path

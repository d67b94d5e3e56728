"""Observations on which a file is compared with its policy, in whole episodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from es_rl import envs, plugins
from es_rl.envs import gymnasium_backend
from es_rl.envs.pools import make_single
from es_rl.envs.renderer import choose_renderer, shows_pictures
from es_rl.envs.spaces import Floats, Packer, shape_of, usable
from es_rl.errors import FOREIGN, EnvError, EsRlError
from es_rl.observations import WHITE
from es_rl.policies.normalizer import Normalizer
from es_rl.rl.agent import Agent, check_spaces
from es_rl.rng import integer_seed, stream

OBSERVATIONS, EPISODES = 1000, 2  # at least
LONGEST = 1000  # steps after which an episode is cut off
SEED = 0  # of the initial states, so that the same run gives the same file and the same check


@dataclass(frozen=True)
class Recorded:
    """Observations of some episodes, (T, O) or images (T, …) each, and where they are from."""

    episodes: list[NDArray[Any]]
    source: str


@contextmanager
def opened(env_id: str, agent: Agent) -> Iterator[gymnasium.Env[Any, Any]]:
    """Make an environment, and close it at the end. Raises `EnvError`, also if its spaces are not the policy's."""
    if shows_pictures(agent.observation_space):
        choose_renderer()
    envs.check_id(env_id, agent.config.backend)
    with _refused(env_id, "made"):
        config = agent.config
        env = make_single(env_id, config.env_kwargs, config.backend, view=config.view)
    try:
        check_spaces(agent, env_id, usable(env.observation_space)[0], env.action_space)
        yield env
    finally:
        gymnasium_backend.close(env)


def played(env: gymnasium.Env[Any, Any], agent: Agent, env_id: str) -> Recorded:
    """Let the policy play until there are enough observations. Raises `EnvError`."""
    pack, episodes = Packer(agent.observation_space), list[NDArray[Any]]()
    with _refused(env_id, "played"):
        while len(episodes) < EPISODES or sum(map(len, episodes)) < OBSERVATIONS:
            with plugins.their_settings(watch=True):
                obs, _ = env.reset(seed=integer_seed(SEED, "evaluate", len(episodes)))
            agent.reset()
            rows = []
            for step in count(1):
                rows.append(pack(obs))
                with plugins.their_settings():
                    obs, _, terminated, truncated, _ = env.step(agent(obs))
                if terminated or truncated or step == LONGEST:
                    break
            episodes.append(np.stack(rows))
    return Recorded(episodes, env_id)


def drawn(agent: Agent) -> Recorded:
    """Draw observations as the policy's statistics say that they are spread, independently of one another."""
    shape, length = shape_of(agent.observation_space), OBSERVATIONS // EPISODES
    if shape.images:
        drawn = stream(SEED, "sample").integers(0, WHITE + 1, (EPISODES, length, *shape.row), np.uint8)
        return Recorded(list(drawn), "images drawn at random")
    width = shape.size
    noise = stream(SEED, "sample").standard_normal((EPISODES, length, width))
    mean, std = _spread(agent.policy, width)
    return Recorded(list(mean + std * noise), "numbers drawn from the policy's statistics")


def _spread(policy: nn.Module, width: int) -> tuple[Floats, Floats]:
    """Return the mean and the standard deviation of each number of an observation; 0 and 1 if they are not known."""
    mean, std = np.zeros(width), np.ones(width)
    normalizer = getattr(policy, "normalizer", None)
    if isinstance(normalizer, Normalizer) and normalizer.count > 0:
        mean[: normalizer.inputs] = normalizer.mean.numpy()
        std[: normalizer.inputs] = torch.reciprocal(normalizer.scale).numpy()
    return mean, std


@contextmanager
def _refused(env_id: str, what: str) -> Iterator[None]:
    """Turn any error of an environment into an `EnvError` of one line."""
    try:
        yield
    except EsRlError:
        raise
    except FOREIGN as error:
        raise EnvError(f"env={env_id}: cannot be {what}: {gymnasium_backend.describe(error)}") from error

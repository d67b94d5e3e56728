"""How all contenders are judged: their policies, the environment that they all have, and its episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from es_rl import envs
from es_rl.compare.config import BaselineConfig
from es_rl.envs.gymnasium_backend import diverged, make_one
from es_rl.envs.spaces import Floats, Ints, flatten
from es_rl.rl.compaction import Compaction
from es_rl.rl.episodes import play
from es_rl.rng import integer_seed

Act = Callable[[Any], Any]  # one observation → one action, deterministic


@dataclass(frozen=True)
class Policy:
    """An `Act` that can be asked for many observations at once, which makes the points of a curve cheap."""

    batch: Callable[[Any], Any]  # observations (n, O) → actions (n, A), or (n,) integers
    obs_first: int | None = None  # of an observation it sees so many numbers

    def __call__(self, obs: Any) -> Any:
        """Return the action for one observation."""
        seen = np.asarray(obs)
        return self.batch((seen if self.obs_first is None else seen[: self.obs_first])[None])[0]


def episodes(act: Act, config: BaselineConfig, count: int, *index: int) -> tuple[Floats, Ints]:
    """Returns and lengths, (count,) each, of fresh episodes; without an index, those of `evaluate`.

    Points of a curve, which have an index, are played side by side where the policy can and observations are vectors,
    on the fast environment if there is one; everything else is, one by one, on Gymnasium's own. A failed episode has a
    NaN return.
    """
    purpose, seed = ("eval", config.seed) if index else ("evaluate", 0)
    seeds = [integer_seed(seed, purpose, *index, i) for i in range(count)]
    env = make_env(config)
    vectors = isinstance(env.observation_space, spaces.Box) and len(env.observation_space.shape) == 1
    try:
        if index and isinstance(act, Policy) and vectors:
            return _side_by_side(act, config, seeds, start=getattr(env.unwrapped.action_space, "start", 0))
        return _one_by_one(act, env, seeds)
    finally:
        env.close()


def _side_by_side(policy: Policy, config: BaselineConfig, seeds: list[int], *, start: int) -> tuple[Floats, Ints]:
    """On our own environments, whose discrete actions begin at `start`."""
    vector = envs.make_vector(config.env, len(seeds), "auto", config.env_kwargs, policy.obs_first)
    found = play(vector, _Together(policy, start), seeds)
    vector.close()
    return found.returns, found.lengths


@dataclass(frozen=True)
class _Together:
    """One policy that acts in all episodes; it has no memory, so that nothing is to be done when one ends."""

    policy: Policy
    start: int

    def __call__(self, running: Ints, obs: Floats) -> NDArray[Any]:
        return np.asarray(self.policy.batch(obs)) + self.start if self.start else np.asarray(self.policy.batch(obs))

    def close(self, gaps: Compaction) -> None:
        """Forget nothing."""


def _one_by_one(act: Act, env: gymnasium.Env[Any, Any], seeds: list[int]) -> tuple[Floats, Ints]:
    returns, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), np.int64)
    for i, seed in enumerate(seeds):
        obs, _ = env.reset(seed=seed)
        over = False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(act(obs))
            returns[i] += np.nan if diverged(env) else np.asarray(reward, np.float64).item()  # as es_rl judges itself
            lengths[i] += 1
            over = terminated or truncated
    return returns, lengths


def make_env(config: BaselineConfig) -> gymnasium.Env[Any, Any]:
    """Gymnasium's own environment, as other libraries can take it.

    Observations that are Dicts or Tuples are one vector, as es_rl sees them; discrete actions begin at zero.
    """
    env = make_one(config.env, config.env_kwargs)
    if isinstance(env.observation_space, (spaces.Dict, spaces.Tuple)):
        env = gymnasium.wrappers.FlattenObservation(env)
    actions = env.action_space
    if isinstance(actions, spaces.Discrete) and actions.start:
        plain = spaces.Discrete(int(actions.n))
        return gymnasium.wrappers.TransformAction(env, lambda action: action + actions.start, plain)
    return env


def acting(config: BaselineConfig, act: Act) -> Act:
    """The same on Gymnasium's environment as it is, without what `make_env` makes of it."""
    env = make_one(config.env, config.env_kwargs)
    env.close()
    observations, start = env.observation_space, getattr(env.action_space, "start", 0)
    parts = isinstance(observations, (spaces.Dict, spaces.Tuple))
    return lambda obs: act(flatten(observations, obs) if parts else obs) + start

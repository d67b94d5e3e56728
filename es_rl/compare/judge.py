"""Evaluate all contenders alike: their policies, the environment that they share, and its episodes."""

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
from es_rl.envs.gymnasium_backend import bounded, diverged, make_one
from es_rl.envs.spaces import Flattener, Floats, Ints, usable
from es_rl.rl.compaction import Compaction
from es_rl.rl.episodes import play
from es_rl.rng import integer_seed

Act = Callable[[Any], Any]  # one observation → one action, deterministic


@dataclass(frozen=True)
class Policy:
    """An `Act` that also takes many observations at once, which makes the points of a curve cheap."""

    batch: Callable[[Any], Any]  # observations (n, O) → actions (n, A), or (n,) integers
    obs_first: int | None = None  # the policy sees this many leading numbers of an observation; None: all
    tensors: Callable[[], dict[str, Any]] | None = None  # returns it as a policy of es_rl, by names, if it can be one

    def __call__(self, obs: Any) -> Any:
        """Return the action for one observation."""
        seen = np.asarray(obs)
        return self.batch((seen if self.obs_first is None else seen[: self.obs_first])[None])[0]


def episodes(act: Act, config: BaselineConfig, count: int, *index: int) -> tuple[Floats, Ints]:
    """Play fresh episodes; return their returns and lengths, (count,) each. A failed episode has a NaN return.

    With an index they are the episodes of a point of a curve, otherwise those of `evaluate`. Episodes of a point run
    side by side if `act` is a `Policy` and observations are vectors, on the fast environment if there is one. All
    others run one by one on Gymnasium's own.
    """
    purpose, seed = ("eval", config.seed) if index else ("evaluate", 0)
    seeds = [integer_seed(seed, purpose, *index, i) for i in range(count)]
    env = make_env(config)
    vectors = isinstance(env.observation_space, spaces.Box) and len(env.observation_space.shape) == 1
    try:
        if index and isinstance(act, Policy) and vectors:
            return _side_by_side(act, config, seeds, start=_start(env.unwrapped.action_space))
        return _one_by_one(act, env, seeds)
    finally:
        env.close()


def _side_by_side(policy: Policy, config: BaselineConfig, seeds: list[int], *, start: Any) -> tuple[Floats, Ints]:
    """Play all episodes at once on es_rl's vector environment, whose choices begin at `start` (None: at zero)."""
    vector = envs.make_vector(config.env, len(seeds), "auto", config.env_kwargs, policy.obs_first)
    found = play(vector, _Together(policy, start), seeds)
    vector.close()
    return found.returns, found.lengths


@dataclass(frozen=True)
class _Together:
    """An actor with one policy for all episodes."""

    policy: Policy
    start: Any

    def __call__(self, running: Ints, obs: Floats) -> NDArray[Any]:
        actions = np.asarray(self.policy.batch(obs))
        return actions if self.start is None else actions + self.start

    def drop(self, gaps: Compaction) -> None:
        """Do nothing: the policy has no memory of episodes."""


def _one_by_one(act: Act, env: gymnasium.Env[Any, Any], seeds: list[int]) -> tuple[Floats, Ints]:
    returns, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), np.int64)
    for i, seed in enumerate(seeds):
        obs, _ = env.reset(seed=seed)
        over = False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(act(obs))
            # A diverged episode has failed, as in es_rl's own evaluation.
            returns[i] += np.nan if diverged(env) else np.asarray(reward, np.float64).item()
            lengths[i] += 1
            over = terminated or truncated
    return returns, lengths


def make_env(config: BaselineConfig) -> gymnasium.Env[Any, Any]:
    """Make Gymnasium's own environment in a form that other libraries accept.

    Dict and Tuple observations are flattened to one vector, as for es_rl. Discrete and MultiDiscrete actions begin
    at zero.
    """
    env = bounded(make_one(config.env, config.env_kwargs))
    if isinstance(env.observation_space, (spaces.Dict, spaces.Tuple)):
        if usable(env.observation_space)[1]:  # parts that es_rl does not see either
            plan = Flattener(env.observation_space)
            env = gymnasium.wrappers.TransformObservation(env, plan, spaces.Box(-np.inf, np.inf, (plan.size,)))
        else:
            env = gymnasium.wrappers.FlattenObservation(env)
    if (start := _start(env.action_space)) is None:
        return env
    return gymnasium.wrappers.TransformAction(env, lambda action: action + start, _from_zero(env.action_space))


def _start(space: spaces.Space[Any]) -> Any:
    """Return the number, or the numbers, at which the choices of an action space begin; None if it is zero."""
    start = getattr(space, "start", 0)
    return start if np.any(start) else None


def _from_zero(space: spaces.Space[Any]) -> spaces.Space[Any]:
    if isinstance(space, spaces.MultiDiscrete):
        return spaces.MultiDiscrete(space.nvec, space.dtype.type)
    assert isinstance(space, spaces.Discrete)
    return spaces.Discrete(int(space.n))


def acting(config: BaselineConfig, act: Act) -> Act:
    """Return `act` for Gymnasium's environment without the conversions of `make_env`."""
    env = make_one(config.env, config.env_kwargs)
    env.close()
    observations, start = env.observation_space, _start(env.action_space)
    plan = Flattener(observations) if isinstance(observations, (spaces.Dict, spaces.Tuple)) else None

    def transformed(obs: Any) -> Any:
        action = act(obs if plan is None else plan(obs))
        return action if start is None else action + start

    return transformed

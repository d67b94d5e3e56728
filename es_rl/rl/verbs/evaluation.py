"""Evaluate a trained policy: fresh seeds, original rewards, no perturbation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from es_rl import envs
from es_rl.envs.measures import statistics
from es_rl.envs.renderer import choose_renderer, shows_pictures
from es_rl.envs.spaces import Floats, Ints, shape_of
from es_rl.errors import EnvError, lookup
from es_rl.rl import agent as agents
from es_rl.rl.actors import policy_actor
from es_rl.rl.config import EvaluateConfig
from es_rl.rl.episodes import play
from es_rl.rng import integer_seed
from es_rl.run.directory import versions
from es_rl.workers.machine import use_one_thread

BATCH = 16  # episodes simulated at once


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Return the returns of a run's policy, and all that they depend on, as JSON values. Raises `EnvError`."""
    config = agents.located(config)
    agent, env = agents.trusted(config)
    return measure(agent, env, config)


def summary(result: Mapping[str, Any]) -> str:
    """Return what an evaluation has found, in one line."""
    counted = result["episodes"] - result["failed"]
    reached = f"{result['return_mean']:.1f} ± {result['return_std']:.1f}"
    return f"{result['env']}: return {reached} over {counted} episodes"


def measure(agent: agents.Agent, env: str, config: EvaluateConfig) -> dict[str, Any]:
    """Return what `evaluate` does, of an agent in an environment. Raises `EnvError`."""
    use_one_thread()
    if shows_pictures(agent.observation_space):
        choose_renderer()
    if not config.backend:
        config = replace(config, backend="envpool" if agent.config.backend == "envpool" else "gymnasium")
    lookup(envs.BACKENDS | {"auto": None}, config.backend, "backend")
    envs.check_id(env, config.backend)
    seed, trained = integer_seed(config.seed, "probe"), agent.config
    spec = envs.probe(env, trained.env_kwargs, seed, config.backend, trained.view)
    agents.check_spaces(agent, env, spec.observation_space, spec.action_space)
    returns, lengths, measured = _episodes(agent, env, config)
    return {
        "run": config.run,
        "env": env,
        "generation": agent.generation,
        "env_kwargs": _as_json(agent.config.env_kwargs),
        "backend": config.backend,
        "episodes": config.episodes,
        "failed": config.episodes - len(returns),
        "seed": config.seed,
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "return_min": float(returns.min()),
        "return_max": float(returns.max()),
        "length_mean": float(lengths.mean()),
        **statistics(spec.measures, measured, steps=float(lengths.sum()), episodes=len(lengths)),
        "versions": versions(),
    }


def _as_json(value: Any) -> Any:
    """Return a value of YAML as JSON has it: bytes, infinity and NaN as text."""
    if isinstance(value, Mapping):
        return {name: _as_json(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_as_json(part) for part in value]
    odd = isinstance(value, bytes) or (isinstance(value, float) and not math.isfinite(value))
    return str(value) if odd else value


def _episodes(agent: agents.Agent, env: str, config: EvaluateConfig) -> tuple[Floats, Ints, Floats]:
    """Return the returns, lengths and measures of the episodes that did not fail. Raises `EnvError` if all failed."""
    seeds = [integer_seed(config.seed, "evaluate", episode) for episode in range(config.episodes)]
    trained = agent.config
    n = 1 if trained.serial else min(BATCH, config.episodes)
    vector = envs.make_vector(env, n, config.backend, trained.env_kwargs, trained.obs_first, view=trained.view)
    batches = [seeds[i : i + n] for i in range(0, len(seeds), n)]
    shape = shape_of(agent.observation_space)
    done = [play(vector, policy_actor(agent.policy, len(batch)), batch, shape=shape) for batch in batches]
    vector.close()
    returns = np.concatenate([part.returns for part in done])
    sound = np.isfinite(returns)
    if not sound.any():
        reasons = [error for part in done for error in part.errors]
        odd = [part.unsound for part in done if part.unsound]
        text = [*reasons, *odd, "a number was not finite"][0]
        raise EnvError(f"env={env}: all {len(returns)} episodes failed: {text}.")
    lengths, measured = (np.concatenate([getattr(part, name) for part in done]) for name in ("lengths", "measured"))
    return returns[sound], lengths[sound], measured[sound]

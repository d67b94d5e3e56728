"""PPO on the fast environments: Stable-Baselines3's PPO, unchanged, with many simulations side by side.

The settings below are all that it is given. If an environment has no fast backend, each simulation is a process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from es_rl import envs
from es_rl.compare.opponents.clock import Act, BaselineConfig, Clock, Policy, looks, predict
from es_rl.compare.opponents.sb3 import arguments, construct, vector
from es_rl.errors import ConfigError
from es_rl.policies.action import ActionHead
from es_rl.rl.presets import family
from es_rl.workers.machine import available_processors

# For every environment: rollouts of 64 steps in each of 64 simulations, in 16 minibatches. `normalize`: normalise
# observations and rewards. `obs_first`: the policy sees this many leading numbers of an observation; null: all of them.
DEFAULTS: dict[str, Any] = {
    "n_envs": 64, "n_steps": 64, "batch_size": 256, "n_epochs": 5, "gamma": 0.99, "gae_lambda": 0.95,
    "learning_rate": 3e-4, "normalize": True, "obs_first": None,
    "policy_kwargs": {"net_arch": [64, 64], "log_std_init": -1.0, "activation_fn": "Tanh"},
}  # fmt: skip
# Exceptions from `DEFAULTS`, by environment: the best of 24 or 48 trials each (benchmarks/search_results.md).
WIDE: dict[str, Any] = {"net_arch": [128, 128], "log_std_init": -1.0, "activation_fn": "Tanh"}
LOUD: dict[str, Any] = {"net_arch": [128, 128], "log_std_init": 0.0, "activation_fn": "Tanh"}
PATIENT: dict[str, Any] = {"gamma": 0.995, "gae_lambda": 0.9, "learning_rate": 0.0005699, "policy_kwargs": WIDE}
STEADY: dict[str, Any] = {
    "n_steps": 128, "batch_size": 512, "n_epochs": 3, "gamma": 0.995, "gae_lambda": 0.9, "learning_rate": 0.0008845,
    "clip_range": 0.3, "ent_coef": 0.001, "policy_kwargs": LOUD,
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "InvertedDoublePendulum": PATIENT,
    "Walker2d": PATIENT,
    "Hopper": STEADY,
    "Humanoid": {
        "batch_size": 1024, "learning_rate": 0.0004042, "clip_range": 0.3,
        "policy_kwargs": {"net_arch": [128, 128], "log_std_init": -2.0, "activation_fn": "Tanh"},
    },
    "HalfCheetah": {
        "batch_size": 512, "gae_lambda": 0.9, "learning_rate": 0.001234, "clip_range": 0.3, "policy_kwargs": WIDE,
    },
    "Ant": {
        "batch_size": 1024, "gamma": 0.995, "gae_lambda": 0.9, "learning_rate": 0.001806, "clip_range": 0.3,
    },
    "Swimmer": {
        "n_steps": 128, "batch_size": 1024, "n_epochs": 3, "gamma": 0.999, "gae_lambda": 0.9,
        "learning_rate": 0.0001622, "ent_coef": 0.005, "normalize": False,
        "policy_kwargs": {"net_arch": [64, 64], "log_std_init": 0.0, "activation_fn": "Tanh"},
    },
}  # fmt: skip


def sees(first: int) -> str:
    """Return a note that a policy sees only a part of an observation."""
    return f"sees the first {first} numbers of an observation"


def settings(env: str) -> dict[str, Any]:
    """Return the settings of an environment of any version."""
    return {**DEFAULTS, **SETTINGS.get(family(env), {})}


def ppo_fast(config: BaselineConfig, clock: Clock) -> Act:
    """Train by proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347)."""
    import stable_baselines3

    given = arguments({family(config.env): settings(config.env)}, config, clock, stable_baselines3.PPO, "obs_first")
    first, normalize, n = given.pop("obs_first"), given.pop("normalize"), config.environments or given["n_envs"]
    if envs.choose_backend(config.env) == "batch":
        env = _fast(config, clock, n, first, normalize=normalize, gamma=given["gamma"])
    else:
        if first is not None:
            text = f"settings.obs_first={first}: it needs a fast environment, and {config.env} has none. Leave it out."
            raise ConfigError(text)
        n, steps = min(n, config.processes or available_processors()), given["n_steps"] * given["n_envs"]
        env = vector(replace(config, processes=n), n, normalize=normalize, gamma=given["gamma"])
        given["n_steps"] = max(2, steps // n)
        clock.uses(environments=n, processes=n, note="no fast environment: each simulation is a process")
    del given["n_envs"]
    try:
        model = construct(stable_baselines3.PPO, given.pop("policy", "MlpPolicy"), env, config, given)
        seen = env if normalize else None
        act = Policy(partial(predict, model, seen), first, partial(tensors, model, seen))
        model.learn(10**12, callback=looks(clock, act))
    finally:
        env.close()
    return act


def tensors(model: Any, normalized: Any) -> dict[str, Any]:
    """Return the policy as es_rl's `mlp` of the same widths with `mlp.squash=clip` has it.

    `normalized` is the environment that holds the observation statistics, or None.
    """
    import torch
    from gymnasium import spaces

    hidden = [layer for layer in model.policy.mlp_extractor.policy_net if isinstance(layer, torch.nn.Linear)]
    layers = {f"network.{2 * i}": layer for i, layer in enumerate([*hidden, model.policy.action_net])}
    found = {
        f"{name}.{short}": value.detach().clone()
        for name, layer in layers.items()
        for short, value in layer.named_parameters()
    }
    if isinstance(model.action_space, spaces.Box):  # ours gives actions from −1 to 1
        head, last = ActionHead(model.action_space, "clip"), f"network.{2 * len(hidden)}"
        found[f"{last}.weight"] /= head.reach[:, None]
        found[f"{last}.bias"] = (found[f"{last}.bias"] - head.center) / head.reach
    if normalized is not None:
        seen = normalized.obs_rms
        parts = {"count": seen.count, "mean": seen.mean, "m2": seen.var * seen.count}
        found |= {f"normalizer.{name}": torch.tensor(value, dtype=torch.float64) for name, value in parts.items()}
    return found


def _fast(config: BaselineConfig, clock: Clock, n: int, first: int | None, *, normalize: bool, gamma: float) -> Any:
    """Return the fast environments, normalised if `normalize`."""
    from stable_baselines3.common.vec_env import VecNormalize

    kwargs: Mapping[str, Any] = config.env_kwargs
    threads = config.physics_threads or config.threads or 1
    env = envs.sb3(config.env, n, threads=threads, obs_first=first, **kwargs)
    env.seed(config.seed)
    clock.uses(environments=n, processes=1)
    notes = [sees(first)] if first is not None else []
    notes += [f"{threads} threads of physics"] if threads != (config.threads or 1) else []
    if notes:
        clock.uses(note="; ".join(notes))
    return VecNormalize(env, gamma=gamma) if normalize else env

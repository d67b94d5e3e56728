"""PPO, SAC and ARS of Stable-Baselines3 and sb3-contrib, with the settings of RL-Zoo."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from gymnasium import spaces

from es_rl.compare.opponents.clock import (
    Act,
    BaselineConfig,
    Clock,
    Enough,
    Policy,
    looks,
    make_env,
    predict,
    settings_of,
)
from es_rl.compare.opponents.rl_zoo import ARS, PPO, SAC
from es_rl.errors import ConfigError
from es_rl.workers.machine import use_one_thread
from es_rl.workers.processes import die_with_parent

# Constructor arguments of the algorithms that are not settings.
OURS = {"env", "seed", "device", "verbose", "tensorboard_log", "stats_window_size", "_init_setup_model"}


def ppo(config: BaselineConfig, clock: Clock) -> Act:
    """Train by proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347)."""
    import stable_baselines3

    settings = arguments(PPO, config, clock, stable_baselines3.PPO)
    normalize, n = settings.pop("normalize", True), config.environments or settings.pop("n_envs", 1)
    settings.pop("n_envs", None)
    env = vector(config, n, normalize=normalize, gamma=settings.get("gamma", 0.99))
    clock.uses(environments=n, processes=n if (config.processes or 1) > 1 else 1)
    try:
        model = construct(stable_baselines3.PPO, settings.pop("policy", "MlpPolicy"), env, config, settings)
        act = Policy(partial(predict, model, env if normalize else None))
        model.learn(10**12, callback=looks(clock, act))
    finally:
        env.close()
    return act


def sac(config: BaselineConfig, clock: Clock) -> Act:
    """Train by soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905)."""
    import stable_baselines3

    settings = arguments(SAC, config, clock, stable_baselines3.SAC)
    normalize, n = settings.pop("normalize", False), config.environments or settings.pop("n_envs", 1)
    settings.pop("n_envs", None)
    env = vector(config, n, normalize=normalize, norm_reward=False)
    clock.uses(environments=n, processes=n if (config.processes or 1) > 1 else 1)
    try:
        model = construct(stable_baselines3.SAC, settings.pop("policy", "MlpPolicy"), env, config, settings)
        act = Policy(partial(predict, model, env if normalize else None))
        model.learn(10**12, callback=looks(clock, act), log_interval=10**9)
    finally:
        env.close()
    return act


def ars(config: BaselineConfig, clock: Clock) -> Act:
    """Train by augmented random search (Mania et al. 2018, arXiv 1803.07055); `processes` evaluate the members."""
    import sb3_contrib
    from sb3_contrib.common.vec_env import AsyncEval

    settings = arguments(ARS, config, clock, sb3_contrib.ARS)
    normalize, policy = settings.pop("normalize", True), settings.pop("policy", "LinearPolicy")
    settings.pop("n_envs", None)
    n = config.processes or 1
    make = partial(vector, replace(config, processes=1), 1, normalize=normalize, norm_reward=False)
    env = make()
    model = construct(sb3_contrib.ARS, policy, env, config, settings)
    evaluators = AsyncEval([partial(_alone, make, os.getpid())] * n, model.policy, start_method="spawn")
    clock.uses(environments=n, processes=n)
    act = Policy(partial(predict, model, env if normalize else None))
    try:
        evaluators.seed(config.seed)
        model.learn(
            10**12, callback=looks(clock, act, "_on_rollout_start"), async_eval=evaluators, log_interval=1_000_000
        )
    except Enough:
        pass  # ARS cannot be left between two updates otherwise
    finally:
        for process in evaluators.processes:  # at once, however the training ends
            process.terminate()
            process.join()
        env.close()
    return act


def _alone(make: Callable[[], Any], parent: int) -> Any:
    """Return the environment of an evaluating process; let the process use one thread and die with its parent."""
    die_with_parent(parent)
    use_one_thread()
    return make()


def arguments(
    table: Mapping[str, Mapping[str, Any]], config: BaselineConfig, clock: Clock, algorithm: type[Any], *also: str
) -> dict[str, Any]:
    """Return a table's settings as the constructor of an algorithm takes them.

    `n_envs`, `normalize` and the names in `also` are settings too. `lin X` falls from X to zero over the training.
    Raises `ConfigError` for an unknown setting or an invalid value.
    """
    taken = {name: parameter.default for name, parameter in inspect.signature(algorithm).parameters.items()}
    known = {k: v for k, v in taken.items() if k not in OURS} | {"n_envs": 1, "normalize": True, **dict.fromkeys(also)}
    given = settings_of(table, config, known)
    settings = {name: schedule(value, clock) for name, value in given.items()}
    network = dict(settings.pop("policy_kwargs", None) or {})
    if isinstance(network.get("activation_fn"), str):
        from torch import nn

        network["activation_fn"] = getattr(nn, network["activation_fn"])
    return settings | {"policy_kwargs": network}


def construct(algorithm: Any, policy: Any, env: Any, config: BaselineConfig, settings: Mapping[str, Any]) -> Any:
    """Return the model of an algorithm. Raises `ConfigError` if its library refuses the settings."""
    try:
        return algorithm(policy, env, device="cpu", seed=config.seed, **settings)
    except (AssertionError, TypeError, ValueError) as error:
        raise ConfigError(f"name={config.name}: its library refuses these settings: {error}") from error


def schedule(value: Any, clock: Clock) -> Any:
    """Turn `lin X` into a schedule from X to zero over the training; return anything else unchanged."""
    if not (isinstance(value, str) and value.startswith("lin ")):
        return value
    start = float(value.removeprefix("lin "))
    return lambda _: start * clock.left


def vector(
    config: BaselineConfig, n: int, *, normalize: bool = True, norm_reward: bool = True, gamma: float = 0.99
) -> Any:
    """Return a Stable-Baselines3 vector of `n` Gymnasium environments, normalised if asked, in processes if asked."""
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

    several = (config.processes or 1) > 1 and n > 1
    env = make_vec_env(
        partial(make_env, config),
        n_envs=n,
        seed=config.seed,
        vec_env_cls=SubprocVecEnv if several else DummyVecEnv,
        vec_env_kwargs={"start_method": "spawn"} if several else None,
    )
    if not normalize:
        return env
    numbers = isinstance(env.observation_space, spaces.Box)  # other spaces cannot be normalised
    return VecNormalize(env, norm_obs=numbers, norm_reward=norm_reward, gamma=gamma)

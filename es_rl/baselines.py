"""What es_rl is compared with: Stable-Baselines3's PPO, sb3-contrib's ARS, and the random policy.

python -m es_rl.baselines name=ppo env=Hopper-v4 minutes=5 seed=0 out=DIRECTORY

Writes `DIRECTORY/curve.jsonl` while it trains and `DIRECTORY/result.json` at the end, and a video if asked. A baseline
is one function in `BASELINES`: it trains by the clock and returns its policy, one observation → one action.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from es_rl import cli, envs, machine
from es_rl.envs.gymnasium_backend import diverged, make_one
from es_rl.errors import ConfigError, EnvError, ResourceError, Stopped, TrainingError, lookup
from es_rl.keys import help_text, key, parse
from es_rl.presets import family
from es_rl.processes import available_processors
from es_rl.record import film, write_mp4
from es_rl.rng import MAX_SEED, integer_seed
from es_rl.rundir import reporting
from es_rl.zoo import ARS, PPO

USAGE = "python -m es_rl.baselines name=NAME env=ID out=DIRECTORY [key=value …]   train and evaluate one baseline"
POINTS = 20  # of a curve, at equal distances in time
CURVE_EPISODES = 10  # of each point

Act = Callable[[Any], Any]  # one observation → one action, deterministic


@dataclass(frozen=True)
class BaselineConfig:
    name: str = key("", "ppo, ars, random")
    env: str = key("", "Gymnasium id, or module:Id")
    env_kwargs: dict[str, Any] = key({}, "arguments of the environment: env_kwargs.NAME=VALUE")
    minutes: float = key(5.0, "of training, evaluation left out", above=0)
    seed: int = key(0, "of training", low=0, high=MAX_SEED)
    episodes: int = key(20, "of the evaluation at the end", low=1)
    out: str = key("", "a directory")
    film: float = key(0.0, "seconds of video; 0: none", low=0, high=600)


class Clock:
    """Training time, from the first look at it, with the evaluations of the curve left out."""

    def __init__(self, config: BaselineConfig, path: Path) -> None:
        self._config, self._path = config, path
        self._limit = 60 * config.minutes
        self._start, self._paused, self._points = float("nan"), 0.0, 0
        self._idle_cpu = 0.0
        self.env_steps = 0
        path.write_text("")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start - self._paused

    @property
    def left(self) -> float:
        """The share of the time that is left."""
        return 1.0 if math.isnan(self._start) else max(0.0, 1 - self.seconds / self._limit)

    @property
    def cpu_seconds(self) -> float:
        """Of training, in this process and its children."""
        return machine.family_seconds() - self._idle_cpu

    def goes_on(self, env_steps: int, act: Act) -> bool:
        """To be called often; evaluates when a point of the curve has come. Whether there is time left."""
        if math.isnan(self._start):
            self._start, self._idle_cpu = time.monotonic(), machine.family_seconds()
        self.env_steps, seconds = env_steps, self.seconds
        if seconds >= self._points * self._limit / POINTS:
            cpu = self.cpu_seconds
            returns, _ = episodes(act, self._config, CURVE_EPISODES, self._points + 1)
            self._idle_cpu += self.cpu_seconds - cpu
            point = {"seconds": seconds, "cpu_seconds": cpu, "env_steps": env_steps, "return": float(returns.mean())}
            with self._path.open("a") as file:
                file.write(json.dumps(point) + "\n")
            self._points = int(seconds * POINTS / self._limit) + 1
            self._paused += self.seconds - seconds
        return seconds < self._limit


def ppo(config: BaselineConfig, clock: Clock) -> Act:
    """Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347)."""
    import stable_baselines3
    from torch import nn

    settings = {name: _schedule(value, clock) for name, value in settings_of(PPO, config.env).items()}
    network = dict(settings.pop("policy_kwargs", {}))
    if "activation_fn" in network:
        network["activation_fn"] = getattr(nn, network["activation_fn"])
    normalize = settings.pop("normalize", True)
    env = _vector(config, settings.pop("n_envs", 1), normalize=normalize, gamma=settings.get("gamma", 0.99))
    model = stable_baselines3.PPO("MlpPolicy", env, device="cpu", seed=config.seed, policy_kwargs=network, **settings)
    act = partial(_predict, model, env if normalize else None)
    model.learn(10**12, callback=_callback(clock, act, "_on_step"))
    return act


def ars(config: BaselineConfig, clock: Clock) -> Act:
    """Augmented random search (Mania et al. 2018), one evaluating process for each processor, as its guide advises."""
    import sb3_contrib
    from sb3_contrib.common.vec_env import AsyncEval

    settings = settings_of(ARS, config.env)
    normalize, policy = settings.pop("normalize", True), settings.pop("policy", "LinearPolicy")
    make = partial(_vector, config, 1, normalize=normalize, norm_reward=False)
    env = make()
    model = sb3_contrib.ARS(policy, env, device="cpu", seed=config.seed, **settings)
    evaluators = AsyncEval([make] * available_processors(), model.policy, start_method="spawn")
    act = partial(_predict, model, env if normalize else None)
    try:
        evaluators.seed(config.seed)
        looks = _callback(clock, act, "_on_rollout_start")
        model.learn(10**12, callback=looks, async_eval=evaluators, log_interval=1_000_000)
    except _Enough:
        pass  # the only way out of it between two updates
    finally:
        for process in evaluators.processes:  # however this ends, at once
            process.terminate()
            process.join()
    return act


def random(config: BaselineConfig, clock: Clock) -> Act:
    """Uniformly random actions; nothing is trained."""
    space = envs.probe(config.env, config.env_kwargs, integer_seed(config.seed, "probe"), "gymnasium").action_space
    space.seed(integer_seed(config.seed, "policy"))
    return lambda obs: space.sample()


BASELINES: dict[str, Callable[[BaselineConfig, Clock], Act]] = {"ppo": ppo, "ars": ars, "random": random}
LABELS = {"ppo": ("PPO (Stable-Baselines3", PPO), "ars": ("ARS (sb3-contrib", ARS)}


def label(name: str, env: str) -> str:
    """What a contender is called in a report, and whose settings it has."""
    if name not in LABELS:
        return {"es": "es_rl", "random": "random actions"}[name]
    text, table = LABELS[name]
    return f"{text}, {'RL-Zoo settings' if family(env) in table else 'default settings, normalised'})"


def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code."""
    if cli.asks_for_help(argv):
        return cli.show(help_text(BaselineConfig, USAGE))
    config = parse(BaselineConfig, argv)
    if not config.env or not config.out:
        raise ConfigError("env and out are needed: give both, such as env=Hopper-v4 out=runs/ppo.")
    baseline = lookup(BASELINES, config.name, "name")
    envs.check_id(config.env)
    out = Path(config.out)
    with reporting(out):
        out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _stop)
    clock = Clock(config, out / "curve.jsonl")
    try:
        act = baseline(config, clock)
    except ImportError as error:
        raise ResourceError(f"name={config.name}: {error}. Install it: pip install 'es-rl[baselines]'.") from error
    seconds, cpu = clock.seconds, clock.cpu_seconds
    returns, lengths = episodes(act, config, config.episodes)
    result = {
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "length_mean": float(lengths.mean()),
        "env_steps": clock.env_steps,
        "seconds": seconds if clock.env_steps else 0.0,
        "cpu_seconds": cpu if clock.env_steps else 0.0,
    }
    if not np.isfinite(returns).all():
        raise TrainingError(f"name={config.name}: {(~np.isfinite(returns)).sum()} of {len(returns)} episodes failed.")
    write_json(out / "result.json", result)
    if config.film:
        _film(config, act, out / "video.mp4")
    return 0


def _stop(number: int, frame: Any) -> None:
    """SIGTERM is an exception: processes are ended on the way out."""
    raise Stopped("stopped by SIGTERM", 75)


def write_json(path: Path, value: Any) -> None:
    """A file that is there complete or not at all."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    temporary.replace(path)


def episodes(act: Act, config: BaselineConfig, count: int, *index: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths, (count,) each, on Gymnasium's own environment; without an index, those of `evaluate`."""
    env = make_one(config.env, config.env_kwargs)
    returns, lengths = np.zeros(count), np.zeros(count, np.int64)
    for i in range(count):
        purpose, seed = ("eval", config.seed) if index else ("evaluate", 0)
        obs, _ = env.reset(seed=integer_seed(seed, purpose, *index, i))
        over = False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(act(obs))
            returns[i] += np.nan if diverged(env) else np.asarray(reward, np.float64).item()  # as es_rl judges itself
            lengths[i] += 1
            over = terminated or truncated
    env.close()
    return returns, lengths


def settings_of(table: dict[str, dict[str, Any]], env: str) -> dict[str, Any]:
    """The settings for an environment, whatever its version; nothing: the library's defaults."""
    return dict(table.get(family(env), {}))


def _schedule(value: Any, clock: Clock) -> Any:
    """`lin X` falls from X to zero while the clock runs out; anything else stays as it is."""
    if not (isinstance(value, str) and value.startswith("lin ")):
        return value
    start = float(value.removeprefix("lin "))
    return lambda _: start * clock.left


def _vector(
    config: BaselineConfig, n: int, *, normalize: bool = True, norm_reward: bool = True, gamma: float = 0.99
) -> Any:
    """The vector environment of Stable-Baselines3, normalised if asked."""
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    env = make_vec_env(lambda: make_one(config.env, config.env_kwargs), n_envs=n, seed=config.seed)
    if not normalize:
        return env
    numbers = isinstance(env.observation_space, (spaces.Box, spaces.Dict))  # others cannot be normalised
    return VecNormalize(env, norm_obs=numbers, norm_reward=norm_reward, gamma=gamma)


def _predict(model: Any, env: Any, obs: Any) -> Any:
    """The deterministic action, with the newest statistics."""
    return model.predict(obs if env is None else env.normalize_obs(obs), deterministic=True)[0]


class _Enough(Exception):  # noqa: N818
    """The time is up."""


def _callback(clock: Clock, act: Act, event: str) -> Any:
    """Looks at the clock at an event of Stable-Baselines3; `_on_step` can end training, others raise `_Enough`."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Looks(BaseCallback):  # type: ignore[misc]
        def _on_step(self) -> bool:
            return event != "_on_step" or clock.goes_on(self.num_timesteps, act)

        def _on_rollout_start(self) -> None:
            if event == "_on_rollout_start" and not clock.goes_on(self.num_timesteps, act):
                raise _Enough

    return Looks()


def _film(config: BaselineConfig, act: Act, path: Path) -> None:
    """The video, or why there is none, beside where it would be."""
    try:
        frames, fps = film(act, lambda: None, config.env, config.env_kwargs, seconds=config.film, seed=0)
    except EnvError as error:
        path.with_suffix(".txt").write_text(str(error))
        return
    write_mp4(path, frames, fps)


if __name__ == "__main__":
    cli.run(main)

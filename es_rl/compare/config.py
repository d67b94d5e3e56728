"""The keys of a comparison, and of each opponent's training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from es_rl.config import check_names, leaves, pairs, parse
from es_rl.errors import ConfigError
from es_rl.keys import key
from es_rl.rl.config import Config, parse_train
from es_rl.rng import MAX_SEED

DEFAULT_MINUTES = 5.0  # training time of an opponent if no stop rule is given
AGAINST = ["ppo_fast", "ppo", "ars", "random"]

# Keys of a training that the comparison sets itself.
TAKEN = ("config", "seed", "run", "resume", "generations", "env_steps", "target_return", "video.every")


@dataclass(frozen=True)
class CompareConfig:
    env: str = key("", "Gymnasium id, such as Hopper-v5, or module:Id", bare="id")
    minutes: float = key(5.0, "minutes of training for each contender and seed", above=0)
    seeds: int = key(3, "trainings of each contender, one per seed", low=1)
    first_seed: int = key(0, "first seed; then first_seed+1, first_seed+2, …", low=0, high=MAX_SEED - 10_000)
    against: list[str] = key(AGAINST, "opponents: ppo_fast, ppo, sac, ars, evotorch, random")
    episodes: int = key(20, "episodes of the final evaluation of each training", low=1)
    film: float = key(8.0, "length in seconds of the video of each contender's first seed; 0: none", low=0, high=600)
    out: str = key("", "directory of the report; default: runs/compare/ENV", path=True)
    threads: int | None = key(None, "threads of each opponent; default: the fastest, found by short trials", low=1)
    environments: int | None = key(None, "environments of ppo_fast, ppo, sac; default: those of their settings", low=1)
    processes: int | None = key(None, "processes of each opponent; default: the fastest, found by short trials", low=1)
    tolerate: float = key(
        0.1, "repeat a training once if other programs took more than this share of the processors", low=0, high=1
    )


@dataclass(frozen=True)
class BaselineConfig:
    name: str = key("", "what to train: ppo_fast, ppo, sac, ars, evotorch, random")
    env: str = key("", "Gymnasium id, or module:Id", bare="id")
    env_kwargs: dict[str, Any] = key({}, "arguments of the environment: env_kwargs.NAME=VALUE")
    settings: dict[str, Any] = key({}, "settings of the algorithm, instead of those in its table: settings.NAME=VALUE")
    minutes: float | None = key(
        None, "stop after this many minutes of training, without evaluations; 5 if no rule is given", above=0
    )
    env_steps: int | None = key(None, "stop after this many environment steps", low=1)
    seed: int = key(0, "random seed of the training", low=0, high=MAX_SEED)
    episodes: int = key(20, "episodes of the final evaluation", low=1)
    out: str = key("", "output directory", path=True)
    film: float = key(0.0, "length of the video in seconds; 0: none", low=0, high=600)
    threads: int | None = key(None, "threads of torch and NumPy; default: 1", low=1)
    physics_threads: int | None = key(None, "physics threads of ppo_fast; default: as many as threads", low=1)
    environments: int | None = key(None, "environments that run side by side; default: those of the settings", low=1)
    processes: int | None = key(
        None, "simulation processes; default: 1, or all processors for ppo_fast without a fast environment", low=1
    )
    measure: float = key(0.0, "only measure the speed, for this many seconds; 0: train", low=0)

    @property
    def stop_rule(self) -> str:
        """The rule that ends the training, as a command-line argument."""
        return f"minutes={self.limit:g}" if self.env_steps is None else f"env_steps={self.env_steps}"

    @property
    def limit(self) -> float:
        """Minutes of training; infinite if only environment steps count."""
        if self.minutes is not None:
            return self.minutes
        return DEFAULT_MINUTES if self.env_steps is None else math.inf


def parse_compare(argv: Sequence[str]) -> tuple[CompareConfig, list[str], Config]:
    """Return the comparison's own keys, those of es_rl's training, and the resolved configuration of the latter.

    Raises `ConfigError`.
    """
    own = dict(leaves(CompareConfig))
    given = pairs(argv, CompareConfig, Config)
    config = parse(CompareConfig, [f"{k}={v}" for k, v in given.items() if k in own])
    ours = [f"{k}={v}" for k, v in given.items() if k not in own]
    check_names(argv, CompareConfig, Config)
    if remote := next((k for k in ours if k.startswith("cluster.")), ""):
        raise ConfigError(f"{remote}: a comparison gives all contenders the same machine, this one. Leave it out.")
    for taken in TAKEN:
        if any(k.startswith(f"{taken}=") for k in ours):
            raise ConfigError(f"{taken}: is set by the comparison, which gives all equal minutes. Leave it out.")
    return config, ours, resolved(config, ours)


def resolved(config: CompareConfig, ours: list[str]) -> Config:
    """Return the resolved configuration of es_rl's trainings. Raises `ConfigError`."""
    return parse_train([f"env={config.env}", *ours] if config.env else ours)

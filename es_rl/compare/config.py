"""The keys of a comparison, and of each opponent's training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from es_rl.keys import key
from es_rl.rng import MAX_SEED

DEFAULT_MINUTES = 5.0  # of an opponent's training without any stop rule
AGAINST = ["ppo_fast", "ppo", "ars", "random"]


@dataclass(frozen=True)
class CompareConfig:
    env: str = key("", "Gymnasium id, such as Hopper-v4, or module:Id")
    minutes: float = key(5.0, "of each training", above=0)
    seeds: int = key(3, "trainings of each", low=1)
    first_seed: int = key(0, "seeds are first_seed, first_seed+1, …", low=0, high=MAX_SEED - 10_000)
    against: list[str] = key(AGAINST, "ppo_fast, ppo, sac, ars, evotorch, random")
    episodes: int = key(20, "episodes of each evaluation at the end", low=1)
    film: float = key(8.0, "seconds of the video of each, of the first seed; 0: none", low=0, high=600)
    out: str = key("", "the report's directory; default: runs/compare/ENV")
    threads: int | None = key(None, "of every opponent; default: what is fastest, tried before", low=1)
    environments: int | None = key(None, "of every opponent; default: those of its settings", low=1)
    processes: int | None = key(None, "of every opponent; default: what is fastest, tried before", low=1)
    tolerate: float = key(
        0.1, "run a training again, once, if others took more than this share of the processors", low=0, high=1
    )


@dataclass(frozen=True)
class BaselineConfig:
    name: str = key("", "ppo_fast, ppo, sac, ars, evotorch, random")
    env: str = key("", "Gymnasium id, or module:Id")
    env_kwargs: dict[str, Any] = key({}, "arguments of the environment: env_kwargs.NAME=VALUE")
    settings: dict[str, Any] = key({}, "of the algorithm, over those of its table: settings.NAME=VALUE")
    minutes: float | None = key(None, "stop after this much training, evaluation left out; 5 without any rule", above=0)
    env_steps: int | None = key(None, "stop after so many environment steps", low=1)
    seed: int = key(0, "random seed of the training", low=0, high=MAX_SEED)
    episodes: int = key(20, "episodes of the evaluation at the end", low=1)
    out: str = key("", "a directory")
    film: float = key(0.0, "seconds of video; 0: none", low=0, high=600)
    threads: int | None = key(None, "threads of torch; default 1", low=1)
    physics_threads: int | None = key(None, "threads of the physics of ppo_fast; default: as many", low=1)
    environments: int | None = key(None, "environments side by side; default: those of the settings", low=1)
    processes: int | None = key(None, "processes that simulate; default 1", low=1)
    measure: float = key(0.0, "only measure the speed, for so many seconds; 0: train", low=0)

    @property
    def stop_rule(self) -> str:
        """The rule that ends the training, as the command line has it."""
        return f"minutes={self.limit:g}" if self.env_steps is None else f"env_steps={self.env_steps}"

    @property
    def limit(self) -> float:
        """Minutes of training, infinite where only environment steps count."""
        if self.minutes is not None:
            return self.minutes
        return DEFAULT_MINUTES if self.env_steps is None else math.inf

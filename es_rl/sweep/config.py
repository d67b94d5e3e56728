"""The keys of a sweep, besides those of the trainings that it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from es_rl import envs
from es_rl.config import check_names, leaves, pairs, parse
from es_rl.errors import ConfigError
from es_rl.keys import key
from es_rl.rl.config import Config
from es_rl.rng import MAX_SEED


@dataclass(frozen=True)
class SweepConfig:
    env: str = key("", "Gymnasium id, such as Hopper-v5, or module:Id", bare="id")
    contender: str = key("es", "what to tune: es, or an opponent of es_rl.compare such as ppo_fast")
    env_steps: int | None = key(None, "environment steps of each training; must be given", low=1)
    trials: int = key(40, "number of settings to try", low=1)
    parallel: int | None = key(
        None, "trainings at a time, on one processor each; default: the available processors", low=1
    )
    seeds: list[int] = key([1000, 1001], "seeds of each trial, whose median score counts", low=0, high=MAX_SEED)
    seed: int = key(0, "random seed of the search itself", low=0, high=MAX_SEED)
    out: str = key("", "output directory; default: runs/sweep/ENV", path=True)


def parse_sweep(argv: Sequence[str]) -> tuple[SweepConfig, dict[str, str]]:
    """Separate the sweep's own keys from those of the training. Raises `ConfigError`, `EnvError`."""
    own = dict(leaves(SweepConfig))
    given = pairs(argv, SweepConfig, Config)
    config = parse(SweepConfig, [f"{k}={v}" for k, v in given.items() if k in own])
    keys = {k: v for k, v in given.items() if k not in own}
    if config.contender == "es":
        check_names(argv, SweepConfig, Config)
    missing = [k for k, v in (("env=Hopper-v5", config.env), ("env_steps=500000", config.env_steps)) if not v]
    if missing:
        raise ConfigError(f"{missing[0].partition('=')[0]} is missing. Give it, such as {' '.join(missing)}.")
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise ConfigError(f"seeds={given.get('seeds')}: give at least one seed, and each once.")
    envs.check_id(config.env)
    return config, keys

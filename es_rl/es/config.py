"""The keys of the strategy and of the optimiser, and the rules between them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from es_rl.errors import ConfigError
from es_rl.keys import key


@dataclass(frozen=True)
class EsConfig:
    noise: str = key("dense", "perturbations: dense, orthogonal, lowrank, lowrank_orthogonal")
    rank: int = key(1, "of low-rank perturbations", low=1)
    noise_reuse: int = key(1, "generations that share their perturbations; 1: fresh ones each generation", low=1)
    freeze_vectors: bool = key(False, "biases and gains stay as they are, only matrices move")
    population: int = key(64, "members of a generation, an even number (antithetic pairs)", low=2)
    steps: int | None = key(
        None, "environment steps that a generation is to have: the population grows until it has about so many", low=1
    )
    population_max: int | None = key(None, "members that it may grow to; default: 16 times es.population", low=2)
    sigma: float = key(0.05, "standard deviation of the perturbation of each parameter", above=0)
    sigma_decay: float = key(1.0, "sigma is multiplied by this after each generation", above=0, high=1)
    shaping: str = key("centered_ranks", "fitness to utilities: centered_ranks, zscore, normalized, sign, raw")
    top: int | None = key(None, "pairs that count, the best ones (ARS); default: all", low=1)
    episodes: int = key(1, "episodes of each member; fitness is their mean", low=1)
    limit: int | None = key(None, "steps after which episodes of training are cut off at first; default: never", low=1)
    limit_growth: float = key(1.01, "es.limit is multiplied by this after each generation", low=1)
    reward_shift: float = key(0.0, "subtracted from each step's reward in training (an alive bonus)")
    max_failed: float = key(
        0.5, "share of failed members in a generation above which the run stops", low=0, high=1, resumable=True
    )


@dataclass(frozen=True)
class OptimConfig:
    name: str = key("adam", "optimiser: sgd, adam, adamw, clipup")
    lr: float = key(0.02, "learning rate", above=0)
    lr_decay: float = key(1.0, "lr is multiplied by this after each generation", above=0, high=1)
    weight_decay: float = key(0.0, "pull of theta towards zero", low=0)
    momentum: float = key(0.9, "of sgd and clipup", low=0, high=1)
    beta1: float = key(0.9, "of adam and adamw", low=0, below=1)
    beta2: float = key(0.999, "of adam and adamw", low=0, below=1)
    eps: float = key(1e-8, "of adam and adamw", above=0)
    max_speed: float | None = key(None, "of clipup: largest step of theta; default: twice lr", above=0)


# Keys of the strategy that are about the episodes of environments.
EPISODIC = ("steps", "population_max", "episodes", "limit", "limit_growth", "reward_shift")


def refuse_episodic(names: Iterable[str], prefix: str = "") -> None:
    """Refuse keys that mean nothing where there are no episodes. Raises `ConfigError`."""
    for name in names:
        if name.startswith(prefix) and name.removeprefix(prefix) in EPISODIC:
            raise ConfigError(f"{name}: is about the episodes of environments, of which there are none. Leave it out.")


def check_pairs(es: EsConfig, prefix: str) -> None:
    """Refuse numbers of members that cannot be. Raises `ConfigError`, with the keys' names behind the prefix."""
    if es.population % 2:
        raise ConfigError(
            f"{prefix}population={es.population}: members come in antithetic pairs, so it must be even: "
            f"{es.population - 1} or {es.population + 1}."
        )
    if es.population_max is not None and (es.population_max < es.population or es.population_max % 2):
        raise ConfigError(
            f"{prefix}population_max={es.population_max}: must be even and at least {prefix}population={es.population}."
        )
    if es.top is not None and es.top > es.population // 2:
        raise ConfigError(
            f"{prefix}top={es.top}: at most {prefix}population/2 = {es.population // 2} pairs can count. "
            f"Give {prefix}top too."
        )

"""The keys of the strategy and of the optimiser, and the rules between them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from es_rl.errors import ConfigError
from es_rl.keys import key

TORCH = "torch.optim."  # begins the name of any other optimiser of torch, which gets its learning rate only


@dataclass(frozen=True)
class EsConfig:
    noise: str = key("dense", "kind of perturbations: dense, orthogonal, lowrank, lowrank_orthogonal")
    rank: int = key(1, "rank of low-rank perturbations", low=1)
    noise_reuse: int = key(1, "use the same perturbations for this many generations in a row", low=1)
    freeze_vectors: bool = key(False, "train matrices only; keep biases and gains fixed")
    population: int = key(64, "members of a generation; even, because they come in antithetic pairs", low=2)
    steps: int | None = key(
        None, "grow the population until a generation takes about this many environment steps; default: do not", low=1
    )
    population_max: int | None = key(
        None, "most members that the population grows to with es.steps; default: 16 times es.population", low=2
    )
    sigma: float = key(0.05, "standard deviation of the perturbation of each parameter", above=0)
    sigma_decay: float = key(1.0, "multiply sigma by this after each generation", above=0, high=1)
    shaping: str = key("centered_ranks", "fitness to utilities: centered_ranks, zscore, normalized, sign, raw")
    top: int | None = key(None, "use only this many pairs, the best ones (ARS); default: all", low=1)
    episodes: int = key(1, "episodes of each member; fitness is their mean", low=1)
    limit: int | None = key(None, "cap training episodes at this many steps at first; default: no cap", low=1)
    limit_growth: float = key(1.01, "multiply the cap of es.limit by this after each generation", low=1)
    reward_shift: float = key(0.0, "subtract this from each step's reward in training (an alive bonus)")
    segment: int = key(
        0, "judge members on recorded steps, after this many steps of each simulation; 0: by whole episodes", low=0
    )
    max_failed: float = key(
        0.5, "stop the run if more than this share of a generation's members fails", low=0, high=1, resumable=True
    )


@dataclass(frozen=True)
class OptimConfig:
    name: str = key("adam", "optimiser: sgd, adam, adamw, clipup, or torch.optim.CLASS, which is given lr only")
    lr: float = key(0.02, "learning rate", above=0)
    lr_decay: float = key(1.0, "multiply lr by this after each generation", above=0, high=1)
    weight_decay: float = key(0.0, "strength of the pull of theta towards zero", low=0)
    momentum: float = key(0.9, "momentum of sgd and clipup", low=0, high=1)
    beta1: float = key(0.9, "adam and adamw: decay rate of the mean of the gradient", low=0, below=1)
    beta2: float = key(0.999, "adam and adamw: decay rate of the mean of the squared gradient", low=0, below=1)
    eps: float = key(1e-8, "adam and adamw: added to the denominator of a step", above=0)
    max_speed: float | None = key(None, "clipup: largest norm of a step of theta; default: twice lr", above=0)


# Keys of the strategy that only make sense with environments.
EPISODIC = ("segment", "steps", "population_max", "episodes", "limit", "limit_growth", "reward_shift")


def refuse_episodic(names: Iterable[str], prefix: str = "") -> None:
    """Raise `ConfigError` for keys that only make sense with environments."""
    for name in names:
        if name.startswith(prefix) and name.removeprefix(prefix) in EPISODIC:
            raise ConfigError(f"{name}: is for training in environments only. Leave it out.")


def check_chunk(chunk: int) -> None:
    """Raise `ConfigError` for a chunk that would split a pair."""
    if chunk < 2 or chunk % 2:
        raise ConfigError(f"chunk={chunk}: must be even and at least 2, since a chunk holds whole pairs.")


def check_pairs(es: EsConfig, prefix: str) -> None:
    """Raise `ConfigError` for impossible numbers of members or pairs; `prefix` begins the keys' names in messages."""
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

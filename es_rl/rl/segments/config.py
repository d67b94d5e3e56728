"""The keys of training by judged steps, and the rules between them and the other keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from es_rl.config import as_text
from es_rl.errors import ConfigError
from es_rl.es.config import TORCH, EsConfig
from es_rl.keys import key


@dataclass(frozen=True)
class CreditConfig:
    simulations: int = key(64, "simulations side by side", low=1)
    epochs: int = key(5, "passes over the recorded steps of a generation", low=1)
    batch: int = key(256, "recorded steps that judge one step of the optimiser", low=1)
    clip: float = key(0.2, "reward a change of a step's likelihood up to this share only", above=0)
    explore: float = key(
        0.37, "standard deviation of the noise on the policy's outputs at first; it is trained too", above=0
    )


@dataclass(frozen=True)
class CriticConfig:
    hidden: list[int] = key([64, 64], "widths of the critic's hidden layers", low=1)
    lr: float = key(1e-3, "learning rate of the critic", above=0)
    epochs: int = key(5, "passes of the critic over the recorded steps of a generation", low=1)
    batch: int = key(512, "recorded steps of one step of the critic's optimiser", low=1)
    discount: float = key(0.99, "weight of a reward one step later (gamma)", low=0, high=1)
    gae: float = key(0.95, "weight of the critic's error one step later in an advantage (lambda)", low=0, high=1)


# Keys of the strategy that count when steps are judged. All others are about members that play episodes.
JUDGED = ("segment", "sigma", "sigma_decay", "max_failed")
EPISODES = {f"es.{field.name}" for field in dataclasses.fields(EsConfig) if field.name not in JUDGED}


def asks_for_episodes(given: Mapping[str, object]) -> bool:
    """Return whether one of the given keys is for members that play whole episodes."""
    values = {name: str(value) for name, value in given.items()}
    return (
        bool(_of_episodes(given))
        or values.get("inference") == "central"
        or values.get("backend", "auto") not in ("auto", "batch")
        or values.get("policy", "mlp") not in ("linear", "mlp")
        or values.get("optim.name", "").startswith(TORCH)
    )


def _of_episodes(given: Mapping[str, object]) -> list[str]:
    """Return which of the given keys only members that play whole episodes have."""
    found = EPISODES & given.keys()
    for name, nothing in (("chunk", ("null", "none")), ("serial", ("false",))):
        if name in given and as_text(given[name]).lower() not in nothing:
            found.add(name)
    return sorted(found)


def check_given(given: Mapping[str, object], segment: int) -> None:
    """Raise `ConfigError` for keys of the command line that have no effect, with the `es.segment` of the run."""
    for name in _of_episodes(given) if segment else []:
        raise ConfigError(_contradiction(name, given[name], segment))
    for name in given if not segment else []:
        if name.startswith(("credit.", "critic.")):
            raise ConfigError(
                f"{name}={given[name]}: is for judged steps, and here whole episodes judge. Give es.segment=64 and no "
                f"key of whole episodes, or leave it out."
            )


def _contradiction(name: str, value: object, segment: object) -> str:
    return (
        f"{name}={value}: is for members that play episodes, and es.segment={segment} judges members on recorded "
        f"steps. Leave one of them out."
    )


def check_judged(config: Any) -> None:
    """Raise `ConfigError` for keys that do not go together with `es.segment`."""
    es, given = config.es, f"es.segment={config.es.segment}"
    for field in dataclasses.fields(EsConfig):
        value = getattr(es, field.name)
        if field.name not in JUDGED and value != field.default:
            raise ConfigError(_contradiction(f"es.{field.name}", value, es.segment))
    least = min(config.credit.batch, es.segment * config.credit.simulations)
    if least < 2:
        raise ConfigError(
            f"credit.batch={config.credit.batch}, {given}, credit.simulations={config.credit.simulations}: they give "
            f"batches of one step, and a step is judged against others. Make credit.batch, and the product of the "
            f"other two, at least 2."
        )
    if config.inference == "central":
        raise ConfigError(f"inference=central: {given} needs inference=local. Leave inference out.")
    if config.optim.name.startswith(TORCH):
        raise ConfigError(f"optim.name={config.optim.name}: {given} needs one of adam, adamw, clipup, sgd.")
    if config.serial:
        raise ConfigError(f"serial=true: {given} needs several simulations in a process. Leave one of them out.")

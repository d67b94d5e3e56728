"""The keys of a run on a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from es_rl.errors import ConfigError
from es_rl.keys import key

ENTRIES = ("working_dir", "py_modules", "pip")  # of runtime_env


@dataclass(frozen=True)
class ClusterConfig:
    address: str = key(
        "", "run workers on a Ray cluster: auto (the one that runs on this machine), HOST:PORT, or local (start one "
        "here); default: no cluster; must be given again when a run goes on", resumable=True,
    )  # fmt: skip
    cpus: float = key(1.0, "processors that a worker reserves in the cluster", above=0, resumable=True)
    gpus: float = key(0.0, "GPUs that a worker reserves in the cluster", low=0, resumable=True)
    runtime_env: dict[str, Any] = key(
        {}, "what a worker needs besides es_rl, as Ray takes it: working_dir=DIRECTORY of your modules, pip=[PACKAGE]; "
        "must be given again when a run goes on", resumable=True,
    )  # fmt: skip
    same_bits: str = key(
        "warn", "for processors that round differently: warn, or strict (leave them out, and compare what is computed "
        "twice)", choices=("warn", "strict"), resumable=True,
    )  # fmt: skip


def check_cluster(config: ClusterConfig, workers: int | None) -> bool:
    """Tell whether workers are on a cluster. Raises `ConfigError` for keys that do not go together."""
    if config.address and workers == 0:
        raise ConfigError(
            f"workers=0: runs everything in this process. Leave it out, or cluster.address={config.address}."
        )
    if config.gpus > 1 and config.gpus != int(config.gpus):
        raise ConfigError(f"cluster.gpus={config.gpus:g}: must be a whole number above 1, or a share up to 1.")
    for name in config.runtime_env:
        if name not in ENTRIES:
            raise ConfigError(f"cluster.runtime_env.{name}: must be one of {', '.join(ENTRIES)}.")
    return bool(config.address)

"""Evolution strategies: ask for the members of a generation, tell their fitness, get the next state.

The names are imported on first use: the keys of a strategy, `es_rl.es.config`, are read without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from es_rl.es.config import EsConfig, OptimConfig
    from es_rl.es.diagnostics import UpdateStats, check_failures, effective_rank, fitness_metrics
    from es_rl.es.strategy import (
        ESParams,
        ESState,
        Generation,
        MemberScores,
        arrays,
        ask,
        check,
        grow,
        init,
        limit,
        perturbation,
        tell,
    )

ROOMS = {
    **dict.fromkeys(("EsConfig", "OptimConfig"), "config"),
    **dict.fromkeys(("UpdateStats", "check_failures", "effective_rank", "fitness_metrics"), "diagnostics"),
}
__all__ = [
    "ESParams",
    "ESState",
    "EsConfig",
    "Generation",
    "MemberScores",
    "OptimConfig",
    "UpdateStats",
    "arrays",
    "ask",
    "check",
    "check_failures",
    "effective_rank",
    "fitness_metrics",
    "grow",
    "init",
    "limit",
    "perturbation",
    "tell",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'es_rl.es' has no attribute {name!r}")
    return getattr(importlib.import_module(f"es_rl.es.{ROOMS.get(name, 'strategy')}"), name)

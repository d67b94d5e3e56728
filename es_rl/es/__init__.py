"""Evolution strategies: ask for the members of a generation, tell their fitness, get the next state."""

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

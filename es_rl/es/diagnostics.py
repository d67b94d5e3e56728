"""Statistics of a generation and its update, for the log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from es_rl.errors import TrainingError

GRAM_SIDE = 512  # `effective_rank` skips matrices whose smaller side exceeds this


@dataclass(frozen=True)
class UpdateStats:
    """Statistics of one update."""

    update_norm: float  # ‖theta' − theta‖
    gradient_norm: float  # norm of the estimate
    failed: int  # failed members
    flat: bool  # both members of every pair have equal utility: theta stays the same
    agreement: float | None  # cosine between the estimates of two halves of the pairs; None if there are none
    effective_rank: float | None  # of theta' − theta, mean over its matrices; None if no matrix changed

    def metrics(self) -> dict[str, Any]:
        """Return the statistics by their names in the log."""
        return {
            "update/norm": self.update_norm,
            "update/effective_rank": self.effective_rank,
            "gradient/norm": self.gradient_norm,
            "gradient/agreement": self.agreement,
            "members/failed": self.failed,
        }


def check_failures(fitness: NDArray[np.float64], reasons: Sequence[str], *, max_failed: float, generation: int) -> None:
    """Raise `TrainingError` if a share of more than `max_failed` of the members failed, or all of them.

    `reasons` are what is known of them: the first one is told.
    """
    failed, members = int((~np.isfinite(fitness)).sum()), len(fitness)
    if failed > max_failed * members or failed == members:
        reason = reasons[0] if reasons else "their fitness is not a finite number"
        raise TrainingError(f"{failed} of {members} members failed in generation {generation}: {reason.rstrip('.')}.")


def fitness_metrics(fitness: NDArray[np.float64]) -> dict[str, float | None]:
    """Return statistics of the members that did not fail, by their names in the log; None if all failed."""
    sound = fitness[np.isfinite(fitness)]
    statistics: dict[str, Any] = {"mean": np.mean, "max": np.max, "min": np.min, "std": np.std}
    return {f"fitness/{name}": float(f(sound)) if sound.size else None for name, f in statistics.items()}


def effective_rank(changes: Iterable[Tensor]) -> float | None:
    """Return (Σ s²)²/Σ s⁴ of the singular values s, the mean over non-zero matrices; `None` if there are none.

    This is the participation ratio, between 1 and the rank: how many directions share the change. Matrices whose
    smaller side exceeds `GRAM_SIDE` are skipped, because they would take as long as the update.
    """
    ranks = []
    for change in changes:
        if change.ndim > 1 and change.any() and min(len(change), change[0].numel()) <= GRAM_SIDE:
            w = change.double().flatten(1)
            gram = w @ w.T if len(w) < w.shape[1] else w.T @ w
            ranks.append(float(gram.trace().square() / gram.square().sum()))
    return sum(ranks) / len(ranks) if ranks else None


def norm(values: Mapping[str, Tensor]) -> float:
    return float(sum(float(value.double().square().sum()) for value in values.values()) ** 0.5)

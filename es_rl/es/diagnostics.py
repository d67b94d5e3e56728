"""What a generation and its update did, in numbers for the log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

GRAM_SIDE = 512  # of a matrix whose singular values are looked at


@dataclass(frozen=True)
class UpdateStats:
    """What one update did, for the log."""

    update_norm: float  # ‖theta' − theta‖
    gradient_norm: float  # of the estimate
    failed: int  # members
    flat: bool  # all utilities equal: nothing could be learnt
    agreement: float | None  # cosine between the estimates of two halves of the pairs; None if they are not independent
    effective_rank: float | None  # of theta' − theta, mean over its matrices; None if there is none that moved

    def metrics(self) -> dict[str, Any]:
        """For the log."""
        return {
            "update/norm": self.update_norm,
            "update/effective_rank": self.effective_rank,
            "gradient/norm": self.gradient_norm,
            "gradient/agreement": self.agreement,
            "members/failed": self.failed,
        }


def fitness_metrics(fitness: NDArray[np.float64]) -> dict[str, float | None]:
    """Statistics of those that did not fail, for the log; None if all did."""
    sound = fitness[np.isfinite(fitness)]
    statistics: dict[str, Any] = {"mean": np.mean, "max": np.max, "min": np.min, "std": np.std}
    return {f"fitness/{name}": float(f(sound)) if sound.size else None for name, f in statistics.items()}


def effective_rank(changes: Iterable[Tensor]) -> float | None:
    """(Σ s²)²/Σ s⁴ of the singular values s, between 1 and the rank; mean over the matrices that are not zero.

    The participation ratio: how many directions share the change. Of matrices with a side of at most `GRAM_SIDE`: of
    larger ones it would take as long as the update. `None` if there is none.
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

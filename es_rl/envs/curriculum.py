"""Episodes that grow harder as policies grow better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Curriculum:
    """How hard episodes are, from 0 to 1. It rises if a metric of the task is as large as wanted, else it falls."""

    metric: str  # its mean over the steps of a generation counts
    wanted: float
    step: float = 0.01  # change of the difficulty after a generation

    def after(self, difficulty: float, record: Mapping[str, Any]) -> float:
        """Return the difficulty after a generation with these metrics."""
        found = record.get(f"metric/{self.metric}")
        if found is None:  # no step was played
            return difficulty
        return min(1.0, max(0.0, difficulty + (self.step if found >= self.wanted else -self.step)))


def curriculum_of(env: Any) -> Curriculum | None:
    """Return an environment's curriculum. Others may have an attribute of this name: what is not ours is not used."""
    found = getattr(env, "curriculum", None)
    return found if isinstance(found, Curriculum) else None


def set_difficulty(env: Any, difficulty: float | None) -> None:
    """Set how hard the episodes are that begin from now on, where that can be set. None: as hard as any."""
    if hasattr(env, "difficulty"):
        env.difficulty = 1.0 if difficulty is None else difficulty


def checked(difficulty: Any) -> float:
    """Return a difficulty that somebody gave. Raises ValueError for what is no number from 0 to 1."""
    if isinstance(difficulty, (int, float)) and 0.0 <= difficulty <= 1.0:
        return float(difficulty)
    raise ValueError(f"difficulty={difficulty!r}: must be a number from 0 to 1.")

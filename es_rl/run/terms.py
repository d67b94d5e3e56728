"""What a kind of run counts, and what its evaluations are ranked by."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class RunTerms:
    """What a kind of run counts, and what its evaluations are ranked by; names of keys and of metrics."""

    steps: str = "env_steps"  # the metric, and the key of the stop rule
    unit: str = "steps"
    score: str = "eval/return_mean"  # the metric
    spread: str = "eval/return_std"
    best: str = "eval/return_best"
    target: str = "target_return"  # the key of the stop rule
    sign: int = 1  # −1: lower is better

    def reached(self, score: float | None, target: float) -> bool:
        """Whether a score meets a target."""
        return score is not None and self.sign * score >= self.sign * target  # never true of NaN

    def better(self, score: float | None, than: float | None) -> bool:
        """Whether a score beats another; any beats none."""
        fine = score is not None and math.isfinite(score)
        return fine and (than is None or self.sign * score > self.sign * than)  # type: ignore[operator]


# Of models that speak, judged by what they say.
REWARD = RunTerms("tokens", "tokens", "eval/reward_mean", "eval/reward_std", "eval/reward_best", "target_reward")

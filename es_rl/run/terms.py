"""What a kind of run counts, what its evaluations are ranked by, and when it stops."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class RunTerms:
    """What a kind of run counts, and what its evaluations are ranked by; names of keys and of metrics."""

    steps: str  # the metric, and the key of the stop rule
    unit: str
    score: str  # the metric
    spread: str  # the metric; "": there is none
    best: str  # the metric
    target: str  # the key of the stop rule
    sign: int = 1  # −1: lower is better

    def reached(self, score: float | None, target: float) -> bool:
        """Tell whether a score meets a target."""
        return score is not None and self.sign * score >= self.sign * target  # never true of NaN

    def better(self, score: float | None, than: float | None) -> bool:
        """Tell whether a score beats another; any beats none."""
        fine = score is not None and math.isfinite(score)
        return fine and (than is None or self.sign * score > self.sign * than)  # type: ignore[operator]


# Of agents, by their returns.
RETURN = RunTerms(
    steps="env_steps",
    unit="steps",
    score="eval/return_mean",
    spread="eval/return_std",
    best="eval/return_best",
    target="target_return",
)
# Of models that write, by the reward of what they write.
REWARD = RunTerms(
    steps="tokens",
    unit="tokens",
    score="eval/reward_mean",
    spread="eval/reward_std",
    best="eval/reward_best",
    target="target_reward",
)


@dataclass(frozen=True)
class StopRules:
    """When a run stops: the first rule that is met ends it; None: there is no such rule."""

    generations: int | None
    steps: int | None
    minutes: float | None
    target: float | None

    @classmethod
    def of(cls, config: Any, terms: RunTerms) -> StopRules:
        """Return those of a configuration, by the names that its kind of run has for them."""
        return cls(config.generations, getattr(config, terms.steps), config.minutes, getattr(config, terms.target))

    def met(
        self, terms: RunTerms, *, generation: int, steps: int, seconds: float, last_score: float | None
    ) -> str | None:
        """Return the rule that is met as the command line has it, or None."""
        if self.generations is not None and generation >= self.generations:
            return f"generations={self.generations}"
        if self.steps is not None and steps >= self.steps:
            return f"{terms.steps}={self.steps}"
        if self.minutes is not None and seconds >= 60 * self.minutes:
            return f"minutes={self.minutes:g}"
        if self.target is not None and terms.reached(last_score, self.target):
            return f"{terms.target}={self.target:g}"
        return None

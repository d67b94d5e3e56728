"""What a kind of run counts, how its evaluations are ranked, and when it stops."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

BETTER = 0.1  # a target is raised by this share of itself


@dataclass(frozen=True, kw_only=True)
class RunTerms:
    """Names of the metrics and keys that a kind of run counts, ranks and stops by."""

    steps: str  # metric, and key of its stop rule
    unit: str  # of the steps, for display
    score: str  # metric that evaluations are ranked by
    spread: str  # metric of the score's spread; "" if there is none
    best: str  # metric of the best score so far
    target: str  # key of the stop rule for the score
    sign: int = 1  # −1 if a lower score is better

    def reached(self, score: float | None, target: float) -> bool:
        """Tell whether a score meets a target."""
        return score is not None and self.sign * score >= self.sign * target  # false for NaN

    def better(self, score: float | None, than: float | None) -> bool:
        """Tell whether a score beats another. Any finite score beats None."""
        fine = score is not None and math.isfinite(score)
        return fine and (than is None or self.sign * score > self.sign * than)  # type: ignore[operator]


# Runs of agents, ranked by their return_.
RETURN = RunTerms(
    steps="env_steps",
    unit="steps",
    score="eval/return_mean",
    spread="eval/return_std",
    best="eval/return_best",
    target="target_return",
)
# Runs of language models, ranked by the reward of their completions.
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
    """When a run stops: at the first rule that is met. None means that there is no such rule."""

    generations: int | None
    steps: int | None
    minutes: float | None
    target: float | None

    @classmethod
    def of(cls, config: Any, terms: RunTerms) -> StopRules:
        """Return the stop rules of a configuration, with the key names of its kind of run."""
        return cls(config.generations, getattr(config, terms.steps), config.minutes, getattr(config, terms.target))

    def met(
        self, terms: RunTerms, *, generation: int, steps: int, seconds: float, last_score: float | None
    ) -> str | None:
        """Return the rule that is met, as written on the command line, or None."""
        if self.generations is not None and generation >= self.generations:
            return f"generations={self.generations}"
        if self.steps is not None and steps >= self.steps:
            return f"{terms.steps}={self.steps}"
        if self.minutes is not None and seconds >= 60 * self.minutes:
            return f"minutes={self.minutes:g}"
        if self.target is not None and terms.reached(last_score, self.target):
            return f"{terms.target}={self.target:g}"
        return None

    def remedy(self, terms: RunTerms, rule: str) -> str:
        """Return what lets a run go on that has met a rule, as `met` returns it."""
        name, _, value = rule.partition("=")
        return f"To go on, give {name} {'below' if name == terms.target and terms.sign < 0 else 'above'} {value}"

    def raised(self, terms: RunTerms, rule: str) -> str:
        """Return a rule that lets a run go on that has met `rule`: twice as much, or a better score.

        Return "" for another reason to end, such as a generation that was given up.
        """
        name, _, value = rule.partition("=")
        if not value or " " in value or name not in ("generations", terms.steps, "minutes", terms.target):
            return ""
        if name == terms.target:
            number = float(value)
            return f"{name}={number + terms.sign * BETTER * (abs(number) or 1.0):g}"
        return f"{name}={2 * float(value):g}" if name == "minutes" else f"{name}={2 * int(value)}"

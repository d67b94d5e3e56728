"""How far a run is, and numbers as people read them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from es_rl.run.terms import RunTerms, StopRules


@dataclass(frozen=True)
class Goal:
    """The nearest stop rule: its text, the share done in [0, 1], and the seconds left, if known."""

    text: str
    share: float
    seconds_left: float | None


def goal(
    rules: StopRules, terms: RunTerms, *, generation: int, steps: int, seconds: float, last_score: float | None
) -> Goal:
    """Return the stop rule that is expected to be met first; a target only if there is no other rule."""
    goals = []
    for name, limit, done in (
        ("generations", rules.generations, generation),
        (terms.steps, rules.steps, steps),
        ("minutes", rules.minutes, seconds / 60),
    ):
        if limit is not None:
            share = min(1.0, done / limit)
            left = seconds * (1 - share) / share if share > 0 and seconds > 0 else None
            goals.append(Goal(f"{name}={limit:,g}" if limit < 1e15 else f"{name}={limit}", share, left))
    if goals:
        return min(goals, key=lambda g: math.inf if g.seconds_left is None else g.seconds_left)
    assert rules.target is not None  # every run has a stop rule
    return Goal(f"{terms.target}={rules.target:g}", float(terms.reached(last_score, rules.target)), None)


def number(value: float | None, digits: int | None = None) -> str:
    """Format a number with the given digits, or as many as its size needs. Return – for None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return "–"
    needed = 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 3
    return f"{value:,.{needed if digits is None else digits}f}"


def clock(seconds: float) -> str:
    """Format seconds as minutes and seconds, with hours if there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

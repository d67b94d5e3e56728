"""What an environment tells of an episode besides its rewards: terms of the reward, what ended it, how far off it was.

Shapes: n simulations or episodes, K measures.

An environment that is measured has `measures`, a tuple of K names such as reward/upright, ends/fallen or
metric/velocity_error, and `measured(ids)`, which returns their sums over the steps of the episodes in progress, or just
over, (n, K).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from es_rl.envs.spaces import Floats, Ids

KINDS = ("reward/", "ends/", "metric/")  # begin the names of measures
ENDS = "ends/"  # begins the names of measures that are counted for each episode; others are means over steps


def names_of(env: Any) -> tuple[str, ...]:
    """Return the names of what is measured, none for an environment that measures nothing.

    Other environments may have attributes of these names: what is not ours is not asked.
    """
    names = getattr(env, "measures", ())
    ours = isinstance(names, tuple) and all(isinstance(name, str) and name.startswith(KINDS) for name in names)
    return names if ours and callable(getattr(env, "measured", None)) else ()


def sums_of(env: Any, ids: Ids) -> Floats:
    """Return the sums over the steps of the present episodes, (n, K)."""
    measured: Floats = env.measured(ids) if names_of(env) else np.zeros((len(ids), 0))
    return measured


def statistics(names: Sequence[str], sums: Floats, *, steps: float, episodes: int, prefix: str = "") -> dict[str, Any]:
    """Return the mean over steps of each measure, and for each cause of an end its share of the episodes.

    `sums` (n, K) are over all steps of the episodes. None stands for a mean of nothing.
    """
    totals = sums.sum(axis=0).tolist()
    counts = [episodes if name.startswith(ENDS) else steps for name in names]
    return {f"{prefix}{k}": v / n if n else None for k, v, n in zip(names, totals, counts, strict=True)}

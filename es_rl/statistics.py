"""What to say of a few runs: interquartile mean, bootstrap intervals, probability of improvement. Pure functions.

After Agarwal et al. 2021 (Deep reinforcement learning at the edge of the statistical precipice, arXiv 2108.13264).
Shapes: K runs (seeds), T points of a curve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import trim_mean

from es_rl.rng import stream

RESAMPLES = 10_000
LEVEL = 0.95

Array = NDArray[np.float64]


def iqm(values: Array) -> Any:
    """The mean of what is left without the lowest and the highest quarter, over the first axis (section 4.3).

    Of fewer than four values nothing is left out.
    """
    return trim_mean(values, 0.25, axis=0)


def interval(values: Array, statistic: Callable[[Array], Any] = iqm) -> tuple[Any, Any]:
    """Ends of the 95 % percentile bootstrap interval of a statistic of runs (K, …); both NaN of a single run."""
    if len(values) < 2:
        nothing = np.full(values.shape[1:], np.nan)
        return nothing, nothing
    drawn = stream(0, "bootstrap").integers(len(values), size=(len(values), RESAMPLES))
    return _ends(np.asarray(statistic(values[drawn])))


def probability_of_improvement(ours: Array, theirs: Array) -> tuple[float, float, float]:
    """That a run of ours (K,) returns more than one of theirs (K',), ties counting half, and the ends of its interval.

    The Mann-Whitney statistic over all pairs of runs (section 4.3, "probability of improvement").
    """
    wins = np.sign(ours[:, None] - theirs) / 2 + 0.5  # (K, K')
    if min(wins.shape) < 2:
        return float(wins.mean()), float("nan"), float("nan")
    rng = stream(0, "bootstrap")
    rows = rng.integers(wins.shape[0], size=(RESAMPLES, wins.shape[0], 1))
    columns = rng.integers(wins.shape[1], size=(RESAMPLES, 1, wins.shape[1]))
    low, high = _ends(wins[rows, columns].mean(axis=(1, 2)))
    return float(wins.mean()), float(low), float(high)


def at(grid: Array, curves: Sequence[tuple[Array, Array]]) -> Array:
    """Curves (x, y) on one grid (T,), by straight lines: (K, T); NaN outside of a curve."""
    return np.stack([np.interp(grid, x, y, left=np.nan, right=np.nan) for x, y in curves])


def _ends(resampled: Array) -> tuple[Any, Any]:
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high

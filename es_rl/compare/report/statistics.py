"""Statistics of a few runs: interquartile mean, bootstrap intervals, performance profiles. Pure functions.

After Agarwal et al. 2021 (Deep reinforcement learning at the edge of the statistical precipice, arXiv 2108.13264).
Shapes: K runs (seeds) of one task, T points of a curve or of a profile, B resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import trim_mean

from es_rl.rng import stream

RESAMPLES = 10_000  # of each bootstrap
LEVEL = 0.95  # confidence level of the intervals
MIN_SEEDS = 3  # fewer runs than these get no interval and no probability

Array = NDArray[np.float64]


def iqm(values: Array) -> Any:
    """Return the mean over the first axis without the lowest and the highest quarter (section 4.3).

    With fewer than four values, nothing is left out.
    """
    return trim_mean(values, 0.25, axis=0)


def interval(values: Array, statistic: Callable[[Array], Any] = iqm) -> tuple[Any, Any]:
    """Return the ends of the 95 % percentile bootstrap interval of a statistic of runs (K, …); NaN for too few runs."""
    if len(values) < MIN_SEEDS:
        nothing = np.full(values.shape[1:], np.nan)
        return nothing, nothing
    drawn = stream(0, "bootstrap").integers(len(values), size=(len(values), RESAMPLES))
    return _ends(np.asarray(statistic(values[drawn])))


def probability_of_improvement(ours: Array, theirs: Array) -> tuple[float, float, float]:
    """Return the probability that a run of ours (K,) returns more than one of theirs (K',), and its interval's ends.

    This is the Mann-Whitney statistic over all pairs of runs, where ties count half (section 4.3, "probability of
    improvement"). All three are NaN if either side has too few runs.
    """
    wins = np.sign(ours[:, None] - theirs) / 2 + 0.5  # (K, K')
    if min(wins.shape) < MIN_SEEDS:
        return float("nan"), float("nan"), float("nan")
    rng = stream(0, "bootstrap")
    rows = rng.integers(wins.shape[0], size=(RESAMPLES, wins.shape[0], 1))
    columns = rng.integers(wins.shape[1], size=(RESAMPLES, 1, wins.shape[1]))
    low, high = _ends(wins[rows, columns].mean(axis=(1, 2)))
    return float(wins.mean()), float(low), float(high)


def stratified_interval(strata: Sequence[Array], statistic: Callable[[Array], Any] = iqm) -> tuple[float, float]:
    """Return the ends of the 95 % bootstrap interval of a statistic of several tasks' runs together (section 4.1).

    `strata` holds the scores (K,) of each task. Each resample draws as many runs of a task as it has, so that no task
    gains weight. Both ends are NaN if a task has too few runs.
    """
    if not strata or min(len(scores) for scores in strata) < MIN_SEEDS:
        return float("nan"), float("nan")
    pooled = np.concatenate([scores[drawn] for scores, drawn in zip(strata, _stratified(strata), strict=True)])
    low, high = _ends(np.asarray(statistic(pooled)))  # of (sum of K, B)
    return float(low), float(high)


def profile(strata: Sequence[Array], taus: Array) -> Array:
    """Return the share of runs (T,) that score more than each of `taus`, averaged over tasks (section 4.2)."""
    shares: Array = np.stack([_above(scores, taus).mean(axis=0) for scores in strata]).mean(axis=0)
    return shares


def profile_band(strata: Sequence[Array], taus: Array) -> tuple[Array, Array]:
    """Return the pointwise 95 % stratified bootstrap band of a profile; NaN if a task has too few runs."""
    if not strata or min(len(scores) for scores in strata) < MIN_SEEDS:
        return np.full(taus.shape, np.nan), np.full(taus.shape, np.nan)
    total = np.zeros((RESAMPLES, len(taus)))  # (B, T)
    for scores, drawn in zip(strata, _stratified(strata), strict=True):
        above = _above(scores, taus).astype(np.float64)  # (K, T)
        counts = np.stack([(drawn == k).mean(axis=0) for k in range(len(scores))], axis=1)  # (B, K) shares of draws
        total += counts @ above
    low, high = _ends(total / len(strata))
    return low, high


def normalised(returns: Array, low: float, high: float) -> Array:
    """Return scores (K,) on a scale where `low` is 0 and `high` is 1."""
    return (returns - low) / (high - low)


def first_reached(level: float, x: Array, y: Array) -> float:
    """Return the x at which a piecewise linear curve (T,) first reaches a level; infinity if it never does."""
    above = np.flatnonzero(y >= level)
    if not len(above):
        return float("inf")
    i = int(above[0])
    if i == 0:
        return float(x[0])
    return float(x[i - 1] + (level - y[i - 1]) / (y[i] - y[i - 1]) * (x[i] - x[i - 1]))


def median_interval(values: Array) -> tuple[float, float]:
    """Return the ends of the 95 % bootstrap interval of the median of runs (K,), some of which may be infinite.

    Both are NaN if there are too few runs.
    """
    if len(values) < MIN_SEEDS:
        return float("nan"), float("nan")
    drawn = stream(0, "bootstrap").integers(len(values), size=(len(values), RESAMPLES))
    medians = np.median(values[drawn], axis=0)  # (B,)
    # Do not interpolate: between a finite and an infinite median there is no value.
    low, high = np.quantile(medians, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    return float(low), float(high)


def round_levels(low: float, high: float, shares: Sequence[float] = (0.25, 0.5, 0.75)) -> list[float]:
    """Return the round numbers nearest to these shares of the way from `low` to `high`; none unless `low` < `high`.

    Round numbers are multiples of a step: the largest 1, 2 or 5 times a power of ten up to an eighth of the way.
    """
    span = high - low
    if not span > 0 or not np.isfinite(span):
        return []
    exponent = int(np.floor(np.log10(span / 8)))
    step = max(m * 10.0**exponent for m in (1, 2, 5) if m * 10.0**exponent <= span / 8)
    return [float(np.round(round((low + share * span) / step) * step, max(0, -exponent))) for share in shares]


def _ends(resampled: Array) -> tuple[Any, Any]:
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def _stratified(strata: Sequence[Array]) -> Iterator[NDArray[np.int64]]:
    """Yield for each task the runs (K, B) that the resamples draw, independently of other tasks."""
    rng = stream(0, "bootstrap")
    for scores in strata:
        yield rng.integers(len(scores), size=(len(scores), RESAMPLES))


def _above(scores: Array, taus: Array) -> NDArray[np.bool_]:
    return scores[:, None] > taus  # (K, T)

"""Fitness → utilities: how much each member moves theta. Pure functions.

Shapes: M members; members 2i and 2i+1 are pair i. Higher fitness is better. NaN and ±inf mark a failed member. It
counts as the worst finite one; for shapings by rank, as worse than every finite one.

To add a shaping, write a function (M,) → (M,) and add one line to `SHAPINGS`. Add its name to `BY_ORDER` if it uses
only the order of the fitness. It may rely on finite input.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from es_rl.errors import lookup

Array = NDArray[np.float64]


def centered_ranks(fitness: Array) -> Array:
    """Return rank/(M−1) − 1/2, in [−1/2, 1/2]; ties share their mean rank (Salimans et al. 2017, section 2.1)."""
    return (_mean_ranks(fitness) - 1) / (len(fitness) - 1) - 0.5


def _mean_ranks(values: Array) -> Array:
    """Return ranks (M,) from 1 on; equal values share their mean rank. (SciPy's version takes a second to import.)"""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last: Array = counts.cumsum()
    return (last - (counts - 1) / 2)[places]


def zscore(fitness: Array) -> Array:
    """Return (f − mean)/std. With `es.top` this is the scaling of ARS (Mania et al. 2018, equation 4)."""
    return _divided(fitness - fitness.mean(), fitness.std(), fitness)


def normalized(fitness: Array) -> Array:
    """Map fitness linearly to [−1/2, 1/2], worst to best."""
    return _divided(fitness - (fitness.min() + fitness.max()) / 2, np.ptp(fitness), fitness)


def sign(fitness: Array) -> Array:
    """Return 1/2 for the better member of each pair and −1/2 for the other; 0 for a tie."""
    plus = np.sign(fitness[0::2] - fitness[1::2]) / 2
    return np.stack([plus, -plus], axis=1).reshape(-1)


def raw(fitness: Array) -> Array:
    """Return the fitness unchanged."""
    return fitness


SHAPINGS: dict[str, Callable[[Array], Array]] = {
    "centered_ranks": centered_ranks,
    "zscore": zscore,
    "normalized": normalized,
    "sign": sign,
    "raw": raw,
}


# Shapings that use only the order of the fitness. For them a failed member is worse than every finite one.
BY_ORDER = {"centered_ranks", "sign"}


def utilities(fitness: Array, *, shaping: str, top: int) -> tuple[Array, NDArray[np.int64]]:
    """Return utilities (M,) and the pairs (top,) that count, ascending; members of all other pairs get utility 0.

    The `top` pairs with the best better member count (ARS V1-t, V2-t); `top = M/2` keeps all. Failed members get the
    worst finite fitness. For the choice of pairs, and for shapings in `BY_ORDER`, they get a value below it. All
    utilities are zero if no fitness is finite or, except with `raw`, if all fitness is equal.
    """
    members = len(fitness)  # M
    if members == 0 or members % 2:
        raise ValueError(f"fitness has {members} values: it needs an even number, two for each pair")
    if not 1 <= top <= members // 2:
        raise ValueError(f"top={top}: must lie between 1 and the number of pairs, {members // 2}")
    shape = lookup(SHAPINGS, shaping, "es.shaping")
    finite = np.isfinite(fitness)
    if not finite.any():
        return np.zeros(members), np.arange(top)
    worst = fitness[finite].min()
    below = np.where(finite, fitness, np.nextafter(worst, -np.inf))
    best_of_pair = below.reshape(-1, 2).max(axis=1)  # (P,)
    kept = np.sort(np.argsort(-best_of_pair, kind="stable")[:top])
    index = (2 * kept[:, None] + [0, 1]).reshape(-1)
    used = below[index] if shaping in BY_ORDER else np.where(finite, fitness, worst)[index]
    result = np.zeros(members)
    result[index] = shape(used)
    return result, kept


def _divided(values: Array, scale: float, fitness: Array) -> Array:
    """Return values/scale, or zeros if the scale is so small that it is only rounding error of the fitness."""
    floor = 1e-12 * float(np.abs(fitness).max())
    return values / scale if scale > floor else np.zeros_like(values)

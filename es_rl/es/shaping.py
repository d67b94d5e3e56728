"""Fitness → utilities: how much each member is to move the mean. Pure functions.

Shapes: M members, member 2i and 2i+1 are the pair i. Fitness is higher-is-better; NaN and ±inf mark a failed member,
which is judged as the worst finite one (by rank: as worse than every finite one).

A shaping is a function (M,) → (M,) and one line in `SHAPINGS`, with its name in `BY_ORDER` if it looks at the order
alone; it may rely on finite input.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from es_rl.errors import lookup

Array = NDArray[np.float64]


def centered_ranks(fitness: Array) -> Array:
    """rank/(M−1) − 1/2, in [−1/2, 1/2]; equal fitness shares its mean rank (Salimans et al. 2017, section 2.1)."""
    return (_mean_ranks(fitness) - 1) / (len(fitness) - 1) - 0.5


def _mean_ranks(values: Array) -> Array:
    """Return ranks (M,) from 1 on; equal values share the mean of theirs. (SciPy's takes a second to import.)"""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last: Array = counts.cumsum()
    return (last - (counts - 1) / 2)[places]


def zscore(fitness: Array) -> Array:
    """(f − mean)/std; with `es.top` the scaling of ARS (Mania et al. 2018, equation 4)."""
    return _divided(fitness - fitness.mean(), fitness.std(), fitness)


def normalized(fitness: Array) -> Array:
    """Fitness mapped linearly to [−1/2, 1/2], worst to best."""
    return _divided(fitness - (fitness.min() + fitness.max()) / 2, np.ptp(fitness), fitness)


def sign(fitness: Array) -> Array:
    """±1/2: which member of each pair is the better one; 0 for a tie."""
    plus = np.sign(fitness[0::2] - fitness[1::2]) / 2
    return np.stack([plus, -plus], axis=1).reshape(-1)


def raw(fitness: Array) -> Array:
    """Fitness as it is."""
    return fitness


SHAPINGS: dict[str, Callable[[Array], Array]] = {
    "centered_ranks": centered_ranks,
    "zscore": zscore,
    "normalized": normalized,
    "sign": sign,
    "raw": raw,
}


# Those that look at nothing but the order: for them a failed member is worse than every other.
BY_ORDER = {"centered_ranks", "sign"}


def utilities(fitness: Array, *, shaping: str, top: int) -> tuple[Array, NDArray[np.int64]]:
    """Utilities (M,) and the pairs (top,) that count, ascending; the members of all other pairs get utility 0.

    `top` pairs with the best better member are kept (ARS V1-t, V2-t); `top = M/2` keeps all. Failed members are
    replaced by one value below every finite fitness for the choice of pairs and for ranks, by the worst finite fitness
    for shapings that use the value itself. Equal fitness everywhere, or no finite fitness at all, gives zeros.
    """
    members = len(fitness)  # M
    if members == 0 or members % 2:
        raise ValueError(f"fitness of {members} members: must be of pairs, an even number")
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
    """values/scale, and zeros where the scale is too small to be more than rounding of the fitness."""
    floor = 1e-12 * float(np.abs(fitness).max())
    return values / scale if scale > floor else np.zeros_like(values)

"""Sums of observations, from which their statistics are made."""

from __future__ import annotations

import numpy as np

from es_rl.envs.spaces import Floats, Ints
from es_rl.policies.normalizer import Moments


class MomentSums:
    """Sums up the moments of the observations in each of P places about a frozen mean."""

    def __init__(self, mean: Floats, places: int) -> None:
        self._mean = mean
        self._sums = np.zeros((places, 2, len(mean)))
        self._terms = np.empty((places, 2, len(mean)))

    def add(self, places: Ints, obs: Floats) -> None:
        """Add one observation for each of these places, (n, O)."""
        terms = self._terms[: len(obs)]
        np.subtract(obs, self._mean, out=terms[:, 0])
        np.square(terms[:, 0], out=terms[:, 1])
        self._sums[places] += terms

    def none(self, n: int) -> Moments:
        """Return moments of n episodes without observations."""
        return Moments(0, *np.zeros((2, n, len(self._mean))))

    def take(self, places: Ints) -> Floats:
        """Return the sums of x − mean and of its square, (n, 2, O), and reset them to zero."""
        sums: Floats = self._sums[places]
        self._sums[places] = 0.0
        return sums

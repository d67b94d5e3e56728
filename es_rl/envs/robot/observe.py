"""Observations of a declared task: terms with noise, scale, clip, delay and history, joined to one vector.

Shapes: N simulations, n of them at hand, k numbers of a term, K numbers with noise, O numbers of an observation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from es_rl.envs.robot.episode import NOISE_STEPS
from es_rl.envs.robot.task import Observe, Term
from es_rl.envs.robot.world import World, called
from es_rl.envs.spaces import Floats, Ints
from es_rl.errors import EnvError


class Observer:
    """Computes observations and remembers what is seen later."""

    def __init__(self, terms: Mapping[str, Term | Observe], n: int, *, randomise: bool) -> None:
        self._terms = {name: term if isinstance(term, Observe) else Observe(term) for name, term in terms.items()}
        self._n, self._randomise = n, randomise
        self._past: dict[str, Floats] = {}  # (N, delay + history, k) of the terms that need it, the oldest first
        self._columns: dict[str, slice] = {}  # of the noise, by term
        self.sizes: Floats = np.zeros(0)  # (K,) of the noise
        self.noise: Floats = np.zeros((n, NOISE_STEPS, 0))
        self.size, self.widths = 0, dict[str, int]()  # numbers of an observation, and of each term

    @property
    def noisy(self) -> bool:
        return bool(len(self.sizes))

    def check(self, w: World, n: int) -> None:
        """Find the sizes of all terms. Raises `EnvError` for one of the wrong shape."""
        self.size, self.widths, sizes = 0, {}, list[Any]()
        for name, o in self._terms.items():
            shape = called(f"the observation {name}", o.term, w).shape
            if shape[:1] != (n,) or len(shape) > 2:
                text = f"the observation {name} has the shape {shape} for {n} simulations"
                raise EnvError(f"{text}, and must have ({n},) or ({n}, k).")
            if shape[1:] == (0,):
                raise EnvError(f"the observation {name} has no numbers. Leave it out, or declare what it reads.")
            k = shape[1] if len(shape) == 2 else 1
            self.size, self.widths[name] = self.size + k * o.history, k
            if o.noise and self._randomise:
                self._columns[name] = slice(len(sizes), len(sizes) + k)
                sizes += [o.noise] * k
            if o.delay or o.history > 1:
                self._past[name] = np.zeros((self._n, o.delay + o.history, k))
        self.sizes = np.array(sizes)
        self.noise = np.zeros((self._n, NOISE_STEPS, len(sizes)))

    def unsound(self, w: World, row: int) -> str:
        """Return the name of the first term that is not finite in a row, or an empty string."""
        found = (name for name, o in self._terms.items() if not np.isfinite(np.asarray(o.term(w))[row]).all())
        return next(found, "")

    def begin(self, w: World, ids: Ints) -> Floats:
        """Return the first observations (n, O) of these simulations: nothing is remembered from before."""
        seen = self._values(w, ids, np.zeros(len(ids), np.int64))
        for name, past in self._past.items():
            past[ids] = seen[name][:, None]
        return self._joined(seen, ids)

    def after(self, w: World, ids: Ints, at: Ints) -> Floats:
        """Return the observations (n, O) after a step; `at` (n,) says which noise is next."""
        seen = self._values(w, ids, at)
        for name, past in self._past.items():
            kept = past[ids]
            kept[:, :-1], kept[:, -1] = kept[:, 1:], seen[name]
            past[ids] = kept
        return self._joined(seen, ids)

    def save(self, ids: Ints) -> Floats:
        """Return what is remembered, a row for each simulation."""
        parts = [past[ids].reshape(len(ids), past[0].size) for past in self._past.values()]
        return np.concatenate([np.zeros((len(ids), 0)), *parts], axis=1)

    def restore(self, ids: Ints, rows: Floats) -> None:
        """Remember what `save` has returned. Raises ValueError for rows of another length."""
        start = 0
        for past in self._past.values():
            end = start + past[0].size
            past[ids] = rows[:, start:end].reshape(len(ids), *past.shape[1:])
            start = end
        if start != rows.shape[1]:
            raise ValueError(f"rows of {rows.shape[1]} numbers in place of {start}")

    def _values(self, w: World, ids: Ints, at: Ints) -> dict[str, Floats]:
        found = {}
        for name, o in self._terms.items():
            value = np.asarray(o.term(w), np.float64)
            value = value[:, None] if value.ndim == 1 else value
            if name in self._columns:
                value = value + self.noise[ids, at, self._columns[name]]
            value = value * o.scale
            found[name] = value if np.isinf(o.clip) else np.clip(value, -o.clip, o.clip)
        return found

    def _joined(self, seen: dict[str, Floats], ids: Ints) -> Floats:
        parts = []
        for name, o in self._terms.items():
            past = self._past.get(name)
            if past is None:
                parts.append(seen[name])
            else:
                parts.append(past[ids, : o.history].reshape(len(ids), o.history * past.shape[2]))
        return np.concatenate(parts, axis=1)

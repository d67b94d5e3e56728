"""Simulations of a `VectorEnv` in pools of EnvPool.

EnvPool seeds a simulation when it makes it, and only then; a later episode goes on with the numbers that earlier ones
left. So every call of `reset` makes a pool of its own, with the seeds it was given, and an episode depends on its seed
alone: not on its place, nor on the simulations beside it. A pool whose episodes have all ended is given up.

With `exact=False`, simulations go on from episode to episode. That saves the time to make them, and gives up that a
training can be repeated.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl.envs.gymnasium_backend import DEFAULT_TIME_LIMIT, describe
from es_rl.envs.pools.observations import Rows
from es_rl.envs.pools.tasks import Task
from es_rl.envs.spaces import Bools, Floats, Ids, Ints, Seeds
from es_rl.errors import FOREIGN, EnvError

MOST = 64  # simulations of a pool: larger ones cost as much a step
FIRST = 8  # of the first pool of a process, which tells how long one takes to make
MAKING_SECONDS = 5.0  # of one call of `reset` at most, about: a worker that is silent for a minute counts as hung


@dataclass
class _Pool:
    """A pool of EnvPool, and the places of the simulations that belong to it."""

    env: Any
    left: int  # simulations that are still used


class PoolVector:
    """n simulations of an environment of EnvPool. See the module."""

    def __init__(
        self,
        id: str,
        n: int,
        env_kwargs: Mapping[str, Any],
        obs_first: int | None = None,
        *,
        endless: bool = False,
        exact: bool = True,
    ) -> None:
        self.errors: dict[int, str] = {}
        self._task, self._exact = Task(id, env_kwargs), exact
        self._rows = Rows(self._task.observation_space, obs_first)
        self._limit = self._task.limit or (sys.maxsize if endless else DEFAULT_TIME_LIMIT)
        self._pools: dict[int, _Pool] = {}
        self._pool = np.full(n, -1)  # the number of the pool of each simulation; -1: it has none
        self._row = np.zeros(n, np.int64)  # its number in the pool
        self._elapsed = np.zeros(n, np.int64)
        self._made = 0  # pools so far
        self.together = FIRST  # episodes that one call of `reset` should begin at most

    def reset(self, ids: Ids, seeds: Seeds) -> Floats:
        chosen = np.asarray(ids, np.int64)
        obs = self._rows.nothing(len(chosen))
        self._elapsed[chosen] = 0
        anew = np.flatnonzero(np.full(len(chosen), self._exact) | (self._pool[chosen] < 0))
        for number, at in self._groups(np.setdiff1d(np.arange(len(chosen)), anew), chosen):
            self._call(number, chosen[at], "reset", lambda env, rows, at=at: self._restart(env, rows, obs, at))
        for first in range(0, len(anew), MOST):
            at = anew[first : first + MOST]
            obs[at] = self._make(chosen[at], [_seed(seeds[i]) for i in at])
        return obs

    def step(self, ids: Ids, actions: NDArray[Any]) -> tuple[Floats, Floats, Bools, Bools]:
        chosen, given = np.asarray(ids, np.int64), self._task.actions(actions)
        n = len(chosen)
        obs, reward = self._rows.nothing(n), np.full(n, np.nan)
        terminated, truncated = np.ones(n, np.bool_), np.zeros(n, np.bool_)
        for i in chosen[self._pool[chosen] < 0].tolist():
            self.errors[i] = "its step raised RuntimeError: step before a successful reset"
        groups = self._groups(np.arange(n), chosen)
        sent = [
            (number, at)
            for number, at in groups
            if self._call(number, chosen[at], "step", lambda env, rows, at=at: env.send(given[at], rows))
        ]
        for number, at in sent:  # each pool has a thread, so they step at the same time where there are processors

            def receive(env: Any, rows: Any, at: Ints = at) -> None:
                seen, value, ends, cut, info = env.recv()
                order = _order(info, rows)
                obs[at[order]] = self._rows(seen, len(at))
                reward[at[order]], terminated[at[order]], truncated[at[order]] = value, ends, cut

            self._call(number, chosen[at], "step", receive)
        self._elapsed[chosen] += 1
        truncated |= self._elapsed[chosen] >= self._limit
        if self._exact and (over := terminated | truncated).any():
            self._leave(chosen[over])
        return obs, reward, terminated, truncated

    def close(self) -> None:
        self._pools.clear()
        self._pool[:] = -1

    def _groups(self, at: Ints, chosen: Ints) -> list[tuple[int, Ints]]:
        """Return (number of a pool, which of `at` belong to it) in order. Those without a pool are left out."""
        numbers = self._pool[chosen[at]]
        found = np.unique(numbers)
        if len(found) == 1 and found[0] >= 0:
            return [(int(found[0]), at)]
        return [(int(number), at[numbers == number]) for number in found if number >= 0]

    def _call(self, number: int, places: Ints, where: str, do: Any) -> bool:
        """Call `do` with a pool and the numbers of these simulations in it. If it raises, the pool is given up."""
        pool = self._pools.get(number)
        try:
            if pool is None:
                return False
            do(pool.env, self._row[places].astype(np.int32))
        except FOREIGN as error:
            self.errors |= dict.fromkeys(places.tolist(), f"its {where} raised {describe(error)}")
            del self._pools[number]
            self._pool[self._pool == number] = -1
            return False
        return True

    def _restart(self, env: Any, rows: Any, obs: Floats, at: Ints) -> None:
        seen, info = env.reset(rows)
        obs[at[_order(info, rows)]] = self._rows(seen, len(at))

    def _make(self, places: Ints, seeds: list[int]) -> Floats:
        """Make a pool for these simulations. Return their first observations; NaN if it cannot be made."""
        self._leave(places)
        begun = perf_counter()
        try:
            env = self._task.pool(seeds)
            seen, info = env.reset()
            obs: Floats = self._rows(seen, len(seeds))[np.argsort(info["env_id"])]
        except FOREIGN as error:
            if not self._made:
                raise EnvError(f"env={self._task.id}: cannot be made: {describe(error)}") from error
            self.errors |= dict.fromkeys(places.tolist(), f"its reset raised {describe(error)}")
            return self._rows.nothing(len(seeds))
        each = max(1e-9, perf_counter() - begun) / len(seeds)
        self.together = int(min(MOST, max(1, MAKING_SECONDS / each)))
        self._pools[self._made] = _Pool(env, len(places))
        self._pool[places], self._row[places] = self._made, np.arange(len(places))
        self._made += 1
        return obs

    def _leave(self, places: Ints) -> None:
        """Let these simulations go. A pool that has no others ends, with its thread and its memory."""
        for number, count in zip(*np.unique(self._pool[places], return_counts=True), strict=True):
            if (pool := self._pools.get(int(number))) is not None:
                pool.left -= int(count)
                if not pool.left:
                    del self._pools[int(number)]
        self._pool[places] = -1


def _order(info: Mapping[str, Any], rows: Any) -> Ints:
    """Return for each row that a pool returned which of those asked for it is."""
    returned = np.asarray(info["env_id"])
    if np.array_equal(returned, rows):  # as EnvPool does today
        return np.arange(len(rows))
    order = np.argsort(rows)
    found: Ints = order[np.searchsorted(rows, returned, sorter=order)]
    return found


def _seed(seed: int | np.random.Generator) -> int:
    """Return a seed of 31 bits, which is what EnvPool takes."""
    return int(seed.integers(2**31)) if isinstance(seed, np.random.Generator) else int(seed) % 2**31

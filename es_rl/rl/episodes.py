"""Run episodes side by side in the places of a vector environment: the loop in which a run spends its time.

Shapes: P places, n running simulations, N episodes begun together, O observation, A action.

Episodes begin in groups and end one by one. Finished ones make room for another group, so that many simulations share
the fixed cost of a step. An episode depends only on its seed and its actor, never on other episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl.envs import VectorEnv
from es_rl.envs.measures import names_of, sums_of
from es_rl.envs.spaces import Bools, Floats, Ints
from es_rl.observations import ObservationShape
from es_rl.policies.normalizer import Moments
from es_rl.rl.actors import Actor
from es_rl.rl.compaction import Compaction
from es_rl.rl.rollout.moments import MomentSums

Beat = Callable[[int], None]  # gets the environment steps done since the last call
Begun = tuple[Ints, Floats]  # places, (n,), and the observations with which their episodes begin, (n, O)

HUGE = 1e30  # larger numbers count as infinite: their squares would ruin the observation statistics


@dataclass
class Episodes:
    """N finished episodes, in the order in which they began. A failed one has return NaN."""

    returns: Floats  # (N,)
    lengths: Ints  # (N,)
    moments: Moments | None  # of each episode
    measured: Floats  # (N, K) sums over the steps of each
    errors: list[str] = field(default_factory=list)  # messages of environments that broke
    simulating: float = 0.0  # seconds in steps of the environments since a group last ended, of all groups in progress
    unsound: str = ""  # the first number that was not finite: what it was, when, and its value


def together(env: VectorEnv) -> int:
    """Return how many episodes one `reset` of an environment should begin."""
    return max(1, int(getattr(env, "together", 1)))


@dataclass
class _Group:
    """Episodes that began together."""

    key: Any
    episodes: Episodes
    left: int  # episodes that still run


class EpisodeBatch:
    """Episodes in progress. The actor's rows are the running simulations, in the order of `running`.

    With a `mean`, moments of the observations are summed about it. An episode fails and ends if a reward, an
    observation or an action is not finite or is beyond `HUGE`. Episodes are cut off after `limit` steps. `shape` tells
    what observations are; default: numbers only.
    """

    def __init__(
        self,
        env: VectorEnv,
        actor: Actor,
        places: int,
        *,
        shape: ObservationShape | None = None,
        mean: Floats | None = None,
        beat: Beat = lambda steps: None,
        limit: int | None = None,
    ) -> None:
        self._env, self._actor, self._beat, self._limit = env, actor, beat, limit
        env.errors.clear()
        self._shape = shape if shape is not None and shape.images else None
        self._tally = None if mean is None else MomentSums(mean, places)
        self._free = list(range(places))[::-1]
        self._group: list[_Group | None] = [None] * places
        self._item, self._begun = np.zeros(places, np.int64), np.zeros(places, np.int64)
        self._steps, self._simulating = 0, 0.0
        self.running = np.empty(0, np.int64)  # places of running simulations
        self._obs: NDArray[Any] = np.empty((0, 0))  # their latest observations
        self._sums = np.empty(0)  # their sums of rewards so far
        self._ended: list[_Group] = []

    @property
    def busy(self) -> bool:
        """True while a simulation runs, or an ended group was not yet returned by `advance`."""
        return self.running.size > 0 or bool(self._ended)

    def reset(self, seeds: Sequence[int]) -> Begun:
        """Reset a free simulation for each seed: for `begin`."""
        places = np.array([self._free.pop() for _ in seeds])
        return places, self._reset(places, seeds)

    def begin(self, key: Any, begun: Begun) -> None:
        """Begin episodes in simulations that `reset` returned, or some of them.

        An actor with weights per row must already have rows for them.
        """
        places, obs = begun
        n = len(places)
        moments = None if self._tally is None else self._tally.none(n)
        measured = np.zeros((n, len(names_of(self._env))))
        episodes = Episodes(np.full(n, np.nan), np.zeros(n, np.int64), moments, measured)
        group = _Group(key, episodes, n)
        self._item[places], self._begun[places] = np.arange(n), self._steps
        for place in places:
            self._group[place] = group
        self.running = np.concatenate([self.running, places])
        self._obs = np.concatenate([self._obs, obs]) if self._obs.size else obs
        self._sums = np.concatenate([self._sums, np.zeros(n)])
        fine = self._sound(obs, places)
        if not fine.all():
            failed = np.concatenate([np.zeros(len(self.running) - n, np.bool_), ~fine])
            if not self._env.errors:
                episodes.unsound = _unsound(0, observation=self._numbers(obs)[np.flatnonzero(~fine)[0]])
            self._leave(failed, failed)

    def advance(self) -> list[tuple[Any, Episodes]]:
        """Step all running simulations by one call of actor and environment. Return (key, episodes) of ended groups."""
        if self.running.size:
            self._step()
        ended, self._ended = self._ended, []
        if ended:
            ended[0].episodes.simulating, self._simulating = self._simulating, 0.0
        return [(group.key, group.episodes) for group in ended]

    def _step(self) -> None:
        running, obs = self.running, self._obs
        if self._tally is not None:
            self._tally.add(running, self._numbers(obs))
        actions = self._actor(running, obs)
        begun = perf_counter()
        obs, reward, terminated, truncated = self._env.step(running, actions)
        self._simulating += perf_counter() - begun
        self._obs = obs
        self._sums += reward
        self._steps += 1
        self._beat(running.size)
        over = terminated | truncated
        if self._limit is not None:
            over |= self._steps - self._begun[running] >= self._limit
        failed = None
        obs = self._numbers(obs)
        if not np.vdot(obs, obs) + np.vdot(reward, reward) + np.vdot(actions, actions) < HUGE**2:
            failed = ~(finite(reward) & finite(obs) & finite(actions))
            over |= failed
            self._note_unsound(np.flatnonzero(failed), reward, obs, actions)
        if np.count_nonzero(over):
            self._leave(over, failed)

    def _numbers(self, obs: NDArray[Any]) -> Floats:
        """Return the numbers of observations, without their images."""
        return obs if self._shape is None else self._shape.numbers_of(obs)

    def _sound(self, obs: NDArray[Any], places: Ints) -> Bools:
        """Tell which first observations can be used, (n,). An image cannot tell by itself that there is none."""
        fine = finite(self._numbers(obs))
        return fine if self._shape is None else fine & ~np.isin(places, list(self._env.errors))

    def _note_unsound(self, rows: Ints, reward: Floats, obs: Floats, actions: NDArray[Any]) -> None:
        """Note for the group of each of these rows which number was not finite."""
        for row in rows.tolist():
            place = self.running[row]
            group = self._group[place]
            if group is not None and not group.episodes.unsound:
                step = self._steps - self._begun[place]
                group.episodes.unsound = _unsound(step, reward=reward[row], observation=obs[row], action=actions[row])

    def _leave(self, over: Bools, failed: Bools | None) -> None:
        """Record how the episodes of these rows ended, and free their places."""
        rows = np.flatnonzero(over)
        places = self.running[rows]
        sums = None if self._tally is None else self._tally.take(places)
        measured = sums_of(self._env, places)
        for i, (row, place) in enumerate(zip(rows.tolist(), places.tolist(), strict=True)):
            group, item = self._group[place], self._item[place]
            assert group is not None
            done = group.episodes
            done.lengths[item] = self._steps - self._begun[place]
            if failed is None or not failed[row]:
                done.returns[item] = self._sums[row]
            if place in self._env.errors:
                done.errors.append(self._env.errors.pop(place))
            done.measured[item] = measured[i]
            if done.moments is not None and sums is not None:
                done.moments.first[item], done.moments.second[item] = sums[i]
            group.left -= 1
            if not group.left:
                self._end(group)
            self._free.append(place)
        gaps = Compaction.of(over)
        self._actor.drop(gaps)
        self.running = gaps.apply(self.running.copy())  # a copy: the actor may hold the old array
        self._obs, self._sums = gaps.apply(self._obs), gaps.apply(self._sums)

    def _end(self, group: _Group) -> None:
        if group.episodes.moments is not None:
            group.episodes.moments.count = int(group.episodes.lengths.sum())
        self._ended.append(group)

    def _reset(self, places: Ints, seeds: Sequence[int]) -> Floats:
        """Begin episodes with beats between them: environments may be slow to make. Return observations (N, O).

        They begin one by one, unless the environment says how many are better begun together.
        """
        seen = list[Floats]()
        first = 0
        while first < len(places):
            end = first + together(self._env)
            seen.append(self._env.reset(places[first:end].tolist(), list(seeds[first:end])))
            self._beat(0)
            first = end
        return np.concatenate(seen)


def play(
    env: VectorEnv,
    actor: Actor,
    seeds: Sequence[int],
    *,
    shape: ObservationShape | None = None,
    mean: Floats | None = None,
    beat: Beat = lambda steps: None,
    limit: int | None = None,
) -> Episodes:
    """Play one episode in each of the first N = len(seeds) places, all begun together: see `EpisodeBatch`."""
    playing = EpisodeBatch(env, actor, len(seeds), shape=shape, mean=mean, beat=beat, limit=limit)
    playing.begin(None, playing.reset(seeds))
    while not (ended := playing.advance()):
        pass
    return ended[0][1]


def joined(parts: Sequence[Episodes]) -> Episodes:
    """Return the episodes of all parts, in order."""
    moments = [part.moments for part in parts if part.moments is not None]
    together = (
        Moments(
            sum(part.count for part in moments),
            np.concatenate([part.first for part in moments]),
            np.concatenate([part.second for part in moments]),
        )
        if moments
        else None
    )
    return Episodes(
        np.concatenate([part.returns for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        together,
        np.concatenate([part.measured for part in parts]),
        [error for part in parts for error in part.errors],
        sum(part.simulating for part in parts),
        next((part.unsound for part in parts if part.unsound), ""),
    )


def _unsound(step: int, **values: Any) -> str:
    """Return which of the values of a step is not finite, such as "number 3 of the observation of step 7 is nan".

    Step 0 is the reset.
    """
    for name, value in values.items():
        row = np.asarray(value, np.float64).reshape(-1)
        odd = np.flatnonzero(~(np.abs(row) < HUGE))
        if odd.size:
            which = f"number {odd[0]} of the {name}" if np.ndim(value) else f"the {name}"
            return f"{which} of {f'step {step}' if step else 'the reset'} is {row[odd[0]]:g}"
    return ""


def finite(values: NDArray[Any]) -> Bools:
    """Tell for each row, (n,), whether all its numbers are finite and below `HUGE` in magnitude."""
    sound: Bools = (np.abs(values) < HUGE).reshape(len(values), -1).all(axis=1)
    return sound

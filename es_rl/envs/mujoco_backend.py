"""The fast backend: Gymnasium's MuJoCo tasks, all simulations of a call computed at once, equal to the last bit.

One instance of Gymnasium's own class is kept as the template: it reads the model and the arguments, and it starts
every episode, so that the same seed gives the same initial state. The physics run on `mujoco.batch.Batch`; tasks that
observe contact forces need `mj_rnePostConstraint` after each step, which a Batch does not call, and take turns in one
MjData. Derived fields lag the state by one substep in both, as they do in Gymnasium.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Protocol, cast

import mujoco
import numpy as np
from mujoco.batch import Batch, SimulationError
from numpy.typing import NDArray

from es_rl.envs.gymnasium_backend import make_one
from es_rl.envs.mujoco_tasks import TASKS
from es_rl.envs.spaces import Bools, Floats, Ids, Ints, size
from es_rl.errors import EnvError

# A simulation in which one of these is counted was reset by MuJoCo in mid-air: the task would reward the teleport.
_BAD = slice(int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADCTRL) + 1)
_STATE = ("qpos", "qvel", "ctrl")
_INTEGRATION = int(mujoco.mjtState.mjSTATE_INTEGRATION)


class _Physics(Protocol):
    """N places in which simulations live; the first n of them are stepped."""

    fields: dict[str, NDArray[Any]]  # by name, (N, …)

    def load(self, place: int, data: mujoco.MjData) -> None:
        """Let the simulation there go on from `data`."""

    def rearrange(self, places: Ints) -> None:
        """Put the simulations that are at these places into the places 0, 1, …"""

    def step(self, n: int, substeps: int) -> Bools | None:
        """Advance the first n; which of them are still sound, or None if all are."""


class _OnBatch:
    """All simulations in one Batch."""

    def __init__(self, model: mujoco.MjModel, n: int, names: Sequence[str]) -> None:
        self._model, self._batch = model, Batch(model, n, 1)
        self.fields = {name: self._batch.bind(name) for name in names} | {"motion": _motion(model, self._batch.state)}
        self._bad = self._batch.warning[:, _BAD, 1]  # (N, kinds) counters, live
        self._known, self._everyone = self._bad.copy(), np.arange(n)

    def load(self, place: int, data: mujoco.MjData) -> None:
        mujoco.mj_getState(self._model, data, self._batch.state[place], _INTEGRATION)
        self._known[place] = self._bad[place]

    def rearrange(self, places: Ints) -> None:
        self._batch.state[:] = self._batch.state[places]
        self._known[:] = self._bad

    def step(self, n: int, substeps: int) -> Bools | None:
        raised: Sequence[int] = ()
        try:
            self._batch.step(None if n == len(self._everyone) else self._everyone[:n], substeps)
        except SimulationError as error:
            raised = error.ids
        if not len(raised) and not np.count_nonzero(self._bad != self._known):
            return None
        sound: Bools = (self._bad == self._known).all(axis=1)
        sound[list(raised)] = False
        return sound[:n]


class _InTurn:
    """One MjData in which the simulations take turns, with the forces of contacts computed after each step.

    That keeps the data in the processor's caches, as a Batch does; an MjData a simulation was 4 % slower (Humanoid-v4).
    """

    def __init__(self, model: mujoco.MjModel, n: int, names: Sequence[str]) -> None:
        self._model, self._data = model, mujoco.MjData(model)
        self._state = np.zeros((n, mujoco.mj_stateSize(model, _INTEGRATION)))
        derived = {name: np.zeros((n, *getattr(self._data, name).shape)) for name in names if name not in _STATE}
        self.fields = derived | {name: self._state[:, _columns(model, name)] for name in _STATE}
        self.fields["motion"] = _motion(model, self._state)
        own = [[(field[i], getattr(self._data, name)) for name, field in derived.items()] for i in range(n)]
        self._places = list(zip(self._state, own, strict=True))
        self._bad = self._data.warning.number[_BAD]  # live

    def load(self, place: int, data: mujoco.MjData) -> None:
        mujoco.mj_getState(self._model, data, self._state[place], _INTEGRATION)

    def rearrange(self, places: Ints) -> None:
        self._state[:] = self._state[places]

    def step(self, n: int, substeps: int) -> Bools | None:
        model, data, broken = self._model, self._data, []
        for place, (state, copies) in enumerate(self._places[:n]):
            mujoco.mj_setState(model, data, state, _INTEGRATION)
            mujoco.mj_step(model, data, substeps)
            mujoco.mj_rnePostConstraint(model, data)
            mujoco.mj_getState(model, data, state, _INTEGRATION)
            for field, value in copies:
                field[...] = value
            if any(self._bad.tolist()):
                broken.append(place)
                self._bad[:] = 0
        if not broken:
            return None
        sound = np.ones(n, np.bool_)
        sound[broken] = False
        return sound


def _columns(model: mujoco.MjModel, name: str) -> slice:
    """Where a component stands in a row of the state, whose components are in the order of their bits."""
    bit = int(getattr(mujoco.mjtState, f"mjSTATE_{name.upper()}"))
    start = mujoco.mj_stateSize(model, _INTEGRATION & (bit - 1))
    return slice(start, start + mujoco.mj_stateSize(model, bit))


def _motion(model: mujoco.MjModel, states: NDArray[Any]) -> NDArray[Any]:
    """qpos and qvel, which stand side by side."""
    return states[:, _columns(model, "qpos").start : _columns(model, "qvel").stop]


class MujocoVector:
    """n simulations of one of `TASKS`. Those that are stepped stand side by side, so that no field need be picked."""

    def __init__(self, id: str, n: int, env_kwargs: Mapping[str, Any], obs_first: int | None = None) -> None:
        self.errors: dict[int, str] = {}
        template = make_one(id, env_kwargs)
        space = template.observation_space
        assert template.spec is not None and template.spec.max_episode_steps is not None
        self._template, self._task, self._limit = template, TASKS[id], template.spec.max_episode_steps
        seen = template.reset(seed=0)[0]
        if seen.shape != space.shape:
            raise EnvError(f"env={id}: observations have the shape {seen.shape}, but its space {space.shape}.")
        env = cast(Any, template.unwrapped)
        bodies = {env.model.body(i).name: i for i in range(env.model.nbody)}
        wanted = size(space, obs_first)
        self._data, self._env = env.data, SimpleNamespace(**vars(env), dt=env.dt, bodies=bodies, wanted=wanted)
        vars(self._env).update(self._task.constants(self._env))
        names, kind = [*_STATE, *self._task.fields], cast(Any, _OnBatch)
        if self._task.contacts(self._env):
            names, kind = [*names, "cfrc_ext"], _InTurn
        self._physics: _Physics = kind(env.model, n, names)
        # What the template has begun last, and what was seen of it.
        self._begun, self._first, self._first_progress = 0, seen[:wanted], self._progress_of_template()
        # By place, as the physics' fields are.
        self._progress, self._elapsed = np.zeros((n, *self._first_progress.shape)), np.zeros(n, np.int64)
        self._place = np.arange(n)  # of each simulation
        self._stepped = np.empty(0, np.int64)  # the simulations that stand in the first places
        self._rows = SimpleNamespace()  # the fields of these

    def reset(self, ids: Ids, seeds: Sequence[int]) -> Floats:
        seen = []
        for i, seed in zip(ids, seeds, strict=True):
            if seed != self._begun:  # both members of a pair begin alike
                self._begun, self._first = seed, self._template.reset(seed=int(seed))[0][: self._env.wanted]
                self._first_progress = self._progress_of_template()
            place = int(self._place[i])
            self._physics.load(place, self._data)
            self._progress[place], self._elapsed[place] = self._first_progress, 0
            seen.append(self._first)
        return np.stack(seen)

    def step(self, ids: Ids, actions: NDArray[Any]) -> tuple[Floats, Floats, Bools, Bools]:
        chosen = np.asarray(ids, np.int64)
        n = len(chosen)
        if chosen.tobytes() != self._stepped.tobytes():
            self._arrange(chosen)
        rows, before, elapsed = self._rows, self._progress[:n], self._elapsed[:n]
        rows.ctrl[:] = actions
        sound = self._physics.step(n, self._env.frame_skip)
        obs = self._task.observe(rows, self._env)[:, : self._env.wanted]
        now = self._task.progress(rows, self._env)
        reward, terminated = self._task.outcome(rows, self._env, before, now, np.asarray(actions, np.float32))
        before[:] = now
        elapsed += 1
        if sound is not None:
            reward[~sound], terminated[~sound] = np.nan, True
        return obs, reward, terminated, elapsed >= self._limit

    def close(self) -> None:
        self._template.close()

    def _arrange(self, chosen: Ints) -> None:
        """Let these simulations stand in the first places, in their order."""
        others = np.ones(len(self._place), np.bool_)
        others[chosen] = False
        order = np.concatenate([chosen, np.flatnonzero(others)])
        places = self._place[order]
        self._physics.rearrange(places)
        self._progress, self._elapsed = self._progress[places], self._elapsed[places]
        self._place[order] = np.arange(len(order))
        self._stepped = chosen.copy()
        self._rows = SimpleNamespace(**{name: field[: len(chosen)] for name, field in self._physics.fields.items()})

    def _progress_of_template(self) -> Floats:
        """The progress of the episode that the template has just begun."""
        fields = {name: getattr(self._data, name)[None] for name in self._physics.fields if name != "motion"}
        progress: Floats = self._task.progress(SimpleNamespace(**fields), self._env)[0]
        return progress

"""The fast backend: Gymnasium's MuJoCo tasks, all simulations of a call computed at once, equal to the last bit.

One instance of Gymnasium's own class is kept as the template: it reads the model and the arguments, and it starts
every episode, so that the same seed gives the same initial state. The physics run on `mujoco.batch.Batch`; tasks that
observe contact forces need `mj_rnePostConstraint` after each step, which a Batch does not call, and run on one MjData a
simulation. Derived fields lag the state by one substep in both, as they do in Gymnasium.
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
from es_rl.envs.spaces import Bools, Floats, Ids
from es_rl.errors import EnvError

# A simulation in which one of these is counted was reset by MuJoCo in mid-air: the task would reward the teleport.
_BAD = slice(int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADCTRL) + 1)
_STATE = ("qpos", "qvel", "ctrl")
_INTEGRATION = int(mujoco.mjtState.mjSTATE_INTEGRATION)


class _Physics(Protocol):
    fields: dict[str, NDArray[Any]]  # by name, (N, …)

    def load(self, i: int, data: mujoco.MjData) -> None:
        """Let simulation i go on from `data`."""

    def step(self, ids: NDArray[np.int64] | None, nstep: int) -> Bools | None:
        """Advance these, or all; which of them are still sound, or None if all are."""


class _OnBatch:
    """All simulations in one Batch."""

    def __init__(self, model: mujoco.MjModel, n: int, names: Sequence[str]) -> None:
        self._model, self._batch = model, Batch(model, n, 1)
        self.fields = {name: self._batch.bind(name) for name in names}
        self._bad = self._batch.warning[:, _BAD, 1]  # (N, kinds) counters, live
        self._known = self._bad.copy()

    def load(self, i: int, data: mujoco.MjData) -> None:
        mujoco.mj_getState(self._model, data, self._batch.state[i], _INTEGRATION)
        self._known[i] = self._bad[i]

    def step(self, ids: NDArray[np.int64] | None, nstep: int) -> Bools | None:
        raised: Sequence[int] = ()
        try:
            self._batch.step(None if ids is None else np.sort(ids), nstep)
        except SimulationError as error:
            raised = error.ids
        if not len(raised) and self._bad.sum() == self._known.sum():
            return None
        sound = (self._bad == self._known).all(axis=1)
        sound[list(raised)] = False
        chosen: Bools = sound if ids is None else sound[ids]
        return chosen


class _OnEach:
    """One MjData a simulation, with the forces of contacts computed after each step."""

    def __init__(self, model: mujoco.MjModel, n: int, names: Sequence[str]) -> None:
        self._model = model
        self._data = [mujoco.MjData(model) for _ in range(n)]
        self.fields = {name: np.zeros((n, *getattr(self._data[0], name).shape)) for name in names}
        copied = [name for name in names if name != "ctrl"]
        self._copies = [[(self.fields[name][i], getattr(data, name)) for name in copied] for i, data in enumerate(self._data)]
        self._controls = [data.ctrl for data in self._data]
        self._bad = [data.warning.number[_BAD] for data in self._data]  # live

    def load(self, i: int, data: mujoco.MjData) -> None:
        mujoco.mj_copyData(self._data[i], self._model, data)

    def step(self, ids: NDArray[np.int64] | None, nstep: int) -> Bools | None:
        chosen = range(len(self._data)) if ids is None else ids.tolist()
        ctrl, broken = self.fields["ctrl"], []
        for row, i in enumerate(chosen):
            data = self._data[i]
            self._controls[i][:] = ctrl[i]
            mujoco.mj_step(self._model, data, nstep)
            mujoco.mj_rnePostConstraint(self._model, data)
            for field, value in self._copies[i]:
                field[...] = value
            if any(self._bad[i].tolist()):
                broken.append(row)
        if not broken:
            return None
        sound = np.ones(len(chosen), np.bool_)
        sound[broken] = False
        return sound


class MujocoVector:
    """n simulations of one of `TASKS`."""

    def __init__(self, id: str, n: int, env_kwargs: Mapping[str, Any]) -> None:
        self.errors: list[str] = []
        template = make_one(id, env_kwargs)
        space = template.observation_space
        assert template.spec is not None and template.spec.max_episode_steps is not None
        self._template, self._task, self._limit = template, TASKS[id], template.spec.max_episode_steps
        seen = template.reset(seed=0)[0]
        if seen.shape != space.shape:
            raise EnvError(f"env={id}: observations have the shape {seen.shape}, but its space {space.shape}.")
        env = cast(Any, template.unwrapped)
        bodies = {env.model.body(i).name: i for i in range(env.model.nbody)}
        self._data, self._env = env.data, SimpleNamespace(**vars(env), dt=env.dt, bodies=bodies)
        names, kind = [*_STATE, *self._task.fields], cast(Any, _OnBatch)
        if self._task.contacts(self._env):
            names, kind = [*names, "cfrc_ext"], _OnEach
        self._physics: _Physics = kind(env.model, n, names)
        self._fields = self._physics.fields
        self._everyone, self._rows = np.arange(n).tobytes(), SimpleNamespace(**self._fields)
        self._place = np.zeros((n, *self._place_of_template().shape))
        self._elapsed = np.zeros(n, np.int64)

    def reset(self, ids: Ids, seeds: Sequence[int]) -> Floats:
        seen = []
        for i, seed in zip(ids, seeds, strict=True):
            seen.append(self._template.reset(seed=int(seed))[0])
            self._physics.load(int(i), self._data)
            self._place[i] = self._place_of_template()
        self._elapsed[np.asarray(ids)] = 0
        return np.stack(seen)

    def step(self, ids: Ids, actions: NDArray[Any]) -> tuple[Floats, Floats, Bools, Bools]:
        some: Any = np.asarray(ids, np.int64)
        if some.tobytes() == self._everyone:
            some = None  # the fields themselves will do, which spares a copy of each
        pick: Any = slice(None) if some is None else some
        self._fields["ctrl"][pick] = actions
        sound = self._physics.step(some, self._env.frame_skip)
        rows = self._rows
        if some is not None:
            rows = SimpleNamespace(**{name: field[some] for name, field in self._fields.items()})
        obs = self._task.observe(rows, self._env)
        place = self._task.place(rows, self._env)
        actions = np.asarray(actions, np.float32)
        reward, terminated = self._task.outcome(rows, self._env, self._place[pick], place, actions)
        self._place[pick] = place
        self._elapsed[pick] += 1
        truncated = self._elapsed[pick] >= self._limit
        if sound is not None:
            reward[~sound], terminated[~sound] = np.nan, True
        return obs, reward, terminated, truncated

    def close(self) -> None:
        self._template.close()

    def _place_of_template(self) -> Floats:
        """The place of the episode that the template has just begun."""
        fields = {name: getattr(self._data, name)[None] for name in self._fields}
        place: Floats = self._task.place(SimpleNamespace(**fields), self._env)[0]
        return place

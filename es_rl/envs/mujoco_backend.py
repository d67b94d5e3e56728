"""The fast backend: Gymnasium's MuJoCo tasks, all simulations of a call computed at once, equal to the last bit.

One instance of Gymnasium's own class is the template. It reads the model and the arguments, and its `reset_model` draws
every initial state, so the same seed gives the same state. The physics run on `mujoco.batch.Batch`. Tasks that observe
contact forces need `mj_rnePostConstraint` after each step, which a Batch does not call; their simulations take turns in
one MjData. In both cases derived fields lag the state by one substep, as they do in Gymnasium.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, NoReturn, Protocol, cast

import mujoco
import numpy as np
from gymnasium.utils import seeding
from mujoco.batch import Batch, SimulationError
from numpy.typing import NDArray

from es_rl.envs.gymnasium_backend import DEFAULT_TIME_LIMIT, make_one, time_limit
from es_rl.envs.mujoco_tasks import PREFIX, TASKS
from es_rl.envs.spaces import Bools, Floats, Ids, Ints, Seeds, size
from es_rl.errors import EnvError

# MuJoCo resets a simulation mid-episode when it counts one of these warnings; the task would reward the jump.
_BAD = slice(int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADCTRL) + 1)
_STATE = ("qpos", "qvel", "ctrl")
_INTEGRATION = int(mujoco.mjtState.mjSTATE_INTEGRATION)


class _Physics(Protocol):
    """The physics of N simulations, each in a place; `step` advances those in the first n places."""

    fields: dict[str, NDArray[Any]]  # by name, (N, …)
    states: NDArray[Any]  # (N, mjSTATE_INTEGRATION)

    def begin(self, places: Ints, motion: Floats) -> None:
        """Reset the simulations at `places` to these qpos and qvel (n, nq+nv), as mj_resetData and mj_forward do."""

    def rearrange(self, places: Ints) -> None:
        """Move the simulations at `places` to the places 0, 1, …"""

    def step(self, n: int, substeps: int) -> Bools | None:
        """Advance the first n simulations; return which of them are still sound, (n,), or None if all are."""


class _OnBatch:
    """Physics with all simulations in one Batch."""

    def __init__(self, model: mujoco.MjModel, n: int, names: Sequence[str], threads: int) -> None:
        self._batch = Batch(model, n, threads)
        self.fields = {name: self._batch.bind(name) for name in names} | {"motion": _motion(model, self._batch.state)}
        self.states, self._anew = self._batch.state, _fresh_state(model)
        # (N, kinds) counters, a live view. A divergence sets them to one, whatever they were: they are kept at zero.
        self._bad, self._everyone = self._batch.warning[:, _BAD, 1], np.arange(n)

    def begin(self, places: Ints, motion: Floats) -> None:
        self.states[places] = self._anew  # cheaper than Batch.reset
        self.fields["motion"][places] = motion
        self._batch.forward(np.sort(places))  # a Batch expects sorted ids
        self._bad[places] = 0

    def rearrange(self, places: Ints) -> None:
        self.states[:] = self.states[places]

    def step(self, n: int, substeps: int) -> Bools | None:
        raised: Sequence[int] = ()
        try:
            self._batch.step(None if n == len(self._everyone) else self._everyone[:n], substeps)
        except SimulationError as error:
            raised = error.ids
        if not len(raised) and not np.count_nonzero(self._bad):
            return None
        sound: Bools = ~self._bad.any(axis=1)
        sound[list(raised)] = False
        self._bad[:] = 0
        return sound[:n]


class _InTurn:
    """Physics with one MjData per thread, in which simulations take turns; computes contact forces after each step.

    This keeps the data in the processor's caches, as a Batch does. One MjData per simulation was 4 % slower
    (Humanoid-v4).
    """

    def __init__(self, model: mujoco.MjModel, n: int, names: Sequence[str], threads: int) -> None:
        self._model, self._datas = model, [mujoco.MjData(model) for _ in range(threads)]
        self.states = np.zeros((n, mujoco.mj_stateSize(model, _INTEGRATION)))
        self._derived = {
            name: np.zeros((n, *getattr(self._datas[0], name).shape)) for name in names if name not in _STATE
        }
        self.fields = self._derived | {name: self.states[:, _columns(model, name)] for name in _STATE}
        self.fields["motion"] = _motion(model, self.states)
        self._rows = [[self._copies(i, data) for i in range(n)] for data in self._datas]
        self._map: Callable[..., Any] = ThreadPoolExecutor(threads).map if threads > 1 else map

    def begin(self, places: Ints, motion: Floats) -> None:
        data, rows = self._datas[0], self._rows[0]
        for place, start in zip(places.tolist(), motion, strict=True):
            mujoco.mj_resetData(self._model, data)
            data.qpos[:], data.qvel[:] = start[: self._model.nq], start[self._model.nq :]
            mujoco.mj_forward(self._model, data)
            self._store(data, place, rows[place])

    def rearrange(self, places: Ints) -> None:
        self.states[:] = self.states[places]

    def step(self, n: int, substeps: int) -> Bools | None:
        ends = np.linspace(0, n, len(self._datas) + 1).astype(int).tolist()
        shares = [range(first, end) for first, end in pairwise(ends)]
        broken = [place for share in self._map(partial(self._turns, substeps), self._datas, self._rows, shares)
                  for place in share]  # fmt: skip
        if not broken:
            return None
        sound = np.ones(n, np.bool_)
        sound[broken] = False
        return sound

    def _turns(self, substeps: int, data: mujoco.MjData, rows: list[Any], places: range) -> list[int]:
        """Step the simulations at `places` one after another; return the places of those that broke."""
        model, bad, broken = self._model, data.warning.number[_BAD], []  # a live view of the counters
        for place in places:
            mujoco.mj_setState(model, data, self.states[place], _INTEGRATION)
            try:
                mujoco.mj_step(model, data, substeps)
                mujoco.mj_rnePostConstraint(model, data)
                self._store(data, place, rows[place])
            except mujoco.FatalError:
                bad[0] = 1  # counts as a divergence
            if any(bad.tolist()):
                broken.append(place)
                bad[:] = 0
        return broken

    def _copies(self, place: int, data: mujoco.MjData) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Return the destination and the source of each derived field of a simulation."""
        return [(field[place], getattr(data, name)) for name, field in self._derived.items()]

    def _store(self, data: mujoco.MjData, place: int, copies: list[Any]) -> None:
        mujoco.mj_getState(self._model, data, self.states[place], _INTEGRATION)
        for field, value in copies:
            field[...] = value


def _fresh_state(model: mujoco.MjModel) -> Floats:
    """Return the state that mj_resetData leaves."""
    state = np.zeros(mujoco.mj_stateSize(model, _INTEGRATION))
    mujoco.mj_getState(model, mujoco.MjData(model), state, _INTEGRATION)
    return state


def _columns(model: mujoco.MjModel, name: str) -> slice:
    """Return the columns of a component in a row of the state. The components are in the order of their bits."""
    bit = int(getattr(mujoco.mjtState, f"mjSTATE_{name.upper()}"))
    start = mujoco.mj_stateSize(model, _INTEGRATION & (bit - 1))
    return slice(start, start + mujoco.mj_stateSize(model, bit))


def _motion(model: mujoco.MjModel, states: NDArray[Any]) -> NDArray[Any]:
    """Return a view of qpos and qvel, which are adjacent in the state."""
    return states[:, _columns(model, "qpos").start : _columns(model, "qvel").stop]


class _Start:
    """Stand-in for `self` in Gymnasium's `reset_model`: it draws an initial state and computes nothing from it."""

    def __init__(self, env: Any) -> None:
        vars(self).update(vars(env))
        self._reset_model = type(env).reset_model
        self._source: int | np.random.Generator | None = None

    def draw(self, source: int | np.random.Generator) -> Floats:
        """Return qpos and qvel (nq+nv,) at the start of an episode, from a seed or a generator, which continues."""
        if isinstance(source, np.random.Generator) or source != self._source:  # both members of a pair start alike
            self._source = source
            self.np_random = source if isinstance(source, np.random.Generator) else seeding.np_random(int(source))[0]
            self._reset_model(self)
        return self._motion

    def set_state(self, qpos: Floats, qvel: Floats) -> None:
        self._motion = np.concatenate([qpos, qvel])

    def _get_obs(self) -> None:
        return None


class MujocoVector:
    """n simulations of one of `TASKS`, stepped by `threads` threads. With `endless`, no time limit means none.

    Simulations that are stepped together are in adjacent places, so their fields are slices and need no indexing.
    """

    def __init__(
        self,
        id: str,
        n: int,
        env_kwargs: Mapping[str, Any],
        obs_first: int | None = None,
        *,
        threads: int = 1,
        endless: bool = False,
    ) -> None:
        self.errors: dict[int, str] = {}
        template = make_one(id, env_kwargs)
        space = template.observation_space
        self._template = template
        self._limit = time_limit(template) or (sys.maxsize if endless else DEFAULT_TIME_LIMIT)
        self._task = TASKS[id.removeprefix(PREFIX)]
        seen = template.reset(seed=0)[0]
        if seen.shape != space.shape:
            raise EnvError(f"env={id}: observations have the shape {seen.shape}, but its space {space.shape}.")
        env = cast(Any, template.unwrapped)
        bodies = {env.model.body(i).name: i for i in range(env.model.nbody)}
        self._start = _Start(env)
        self._env = SimpleNamespace(**vars(env), dt=env.dt, bodies=bodies, wanted=size(space, obs_first))
        vars(self._env).update(self._task.constants(self._env))
        names, kind = [*_STATE, *self._task.fields], cast(Any, _OnBatch)
        if self._task.contacts(self._env):
            names, kind = [*names, "cfrc_ext"], _InTurn
        self._physics: _Physics = kind(env.model, n, names, min(threads, n))
        # Indexed by place, like the fields of the physics.
        progress = self._task.progress(self._rows_at(np.zeros(1, np.int64)), self._env)
        self._progress, self._elapsed = np.zeros((n, *progress.shape[1:])), np.zeros(n, np.int64)
        self._place = np.arange(n)  # of each simulation
        self._stepped = np.empty(0, np.int64)  # the simulations in the first places, in order
        self._rows = SimpleNamespace()  # their fields

    def reset(self, ids: Ids, seeds: Seeds) -> Floats:
        places = self._place[np.asarray(ids, np.int64)]
        self._physics.begin(places, np.array([self._start.draw(seed) for seed in seeds]))
        rows = self._rows_at(places)
        self._progress[places], self._elapsed[places] = self._task.progress(rows, self._env), 0
        return self._task.observe(rows, self._env)[:, : self._env.wanted]

    def step(self, ids: Ids, actions: NDArray[Any]) -> tuple[Floats, Floats, Bools, Bools]:
        chosen, actions = np.asarray(ids, np.int64), np.asarray(actions, np.float32)
        n = len(chosen)
        if chosen.tobytes() != self._stepped.tobytes():
            self._arrange(chosen)
        rows, before, elapsed = self._rows, self._progress[:n], self._elapsed[:n]
        rows.ctrl[:] = actions
        sound = self._physics.step(n, self._env.frame_skip)
        obs = self._task.observe(rows, self._env)[:, : self._env.wanted]
        now = self._task.progress(rows, self._env)
        reward, terminated = self._task.outcome(rows, self._env, before, now, actions)
        before[:] = now
        elapsed += 1
        if sound is not None:
            reward[~sound], terminated[~sound] = np.nan, True
        return obs, reward, terminated, elapsed >= self._limit

    def state(self, i: int) -> Floats:
        """Return the full physics state of a simulation (mjSTATE_INTEGRATION), to draw it or continue it elsewhere."""
        state: Floats = self._physics.states[self._place[i]].copy()
        return state

    def save(self, ids: Ids) -> Floats:
        """Return all that the coming steps of these simulations depend on, a row (n, S) each."""
        places = self._place[np.asarray(ids, np.int64)]
        progress = self._progress[places].reshape(len(places), self._progress[0].size)
        return np.concatenate([self._physics.states[places], progress, self._elapsed[places, None]], axis=1)

    def restore(self, ids: Ids, rows: Floats) -> None:
        """Put these simulations where the rows (n, S) of `save` left theirs. Raises ValueError for other rows."""
        places = self._place[np.asarray(ids, np.int64)]
        size = self._physics.states.shape[1]
        self._physics.states[places] = rows[:, :size]
        self._progress[places] = rows[:, size:-1].reshape(len(places), *self._progress.shape[1:])
        self._elapsed[places] = rows[:, -1]

    def close(self) -> None:
        self._template.close()
        self._rows = SimpleNamespace()
        vars(self).pop("_physics", None)  # this ends its threads

    def __reduce__(self) -> NoReturn:
        raise TypeError("simulations can be neither copied nor pickled: make new ones with the same arguments")

    def _rows_at(self, places: Ints) -> SimpleNamespace:
        """Return copies of the fields of the simulations at `places`."""
        return SimpleNamespace(**{name: field[places] for name, field in self._physics.fields.items()})

    def _arrange(self, chosen: Ints) -> None:
        """Move these simulations to the first places, in the order given."""
        others = np.ones(len(self._place), np.bool_)
        others[chosen] = False
        order = np.concatenate([chosen, np.flatnonzero(others)])
        places = self._place[order]
        self._physics.rearrange(places)
        self._progress, self._elapsed = self._progress[places], self._elapsed[places]
        self._place[order] = np.arange(len(order))
        self._stepped = chosen.copy()
        self._rows = SimpleNamespace(**{name: field[: len(chosen)] for name, field in self._physics.fields.items()})

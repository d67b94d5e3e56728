"""The general backend: any Gymnasium environment. The simulations are stepped one by one, in one process."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from es_rl import plugins
from es_rl.envs.curriculum import Curriculum, curriculum_of
from es_rl.envs.measures import names_of, sums_of
from es_rl.envs.pixels import PLAIN, View
from es_rl.envs.spaces import Bools, Floats, Ids, Packer, Seeds, action_maker, refusal
from es_rl.errors import FOREIGN, EnvError, text_of
from es_rl.observations import ObservationShape

# Steps per episode of an environment without a time limit of its own: its episodes might never end.
DEFAULT_TIME_LIMIT = 10_000
ALONE = ". Give serial=true if a process can hold just one"
OLD_STEP = ". Gymnasium's step returns (observation, reward, terminated, truncated, info)"
OFF = (None, -1)  # of `max_episode_steps`: Gymnasium's ways to switch the limit off

# mjWARN_BADQPOS, BADQVEL, BADQACC, BADCTRL
_BAD_WARNINGS = slice(3, 7)


def make_one(
    id: str, env_kwargs: Mapping[str, Any], *, view: View = PLAIN, render_mode: str | None = None
) -> gymnasium.Env[Any, Any]:
    """Make one Gymnasium environment; `module:Id` imports the module first, and a `Given` one is called.

    A `view` other than the plain one shows its frames and images in another way.
    """
    if view.pixels.render:
        render_mode = render_mode or "rgb_array"
    try:
        env = _made(id, env_kwargs, {} if render_mode is None else {"render_mode": render_mode})
    except TypeError as error:
        if view.pixels.render and "'render_mode'" in text_of(error):
            raise EnvError(f"pixels.render=true: env={id} takes no render_mode, so it cannot draw.") from error
        raise
    if not view.keys:
        return env
    from es_rl.envs.pixels.wrappers import wrapped  # imports Pillow, which few environments need

    try:
        return wrapped(env, view, id)
    except EnvError:
        close(env)
        raise


def _made(id: str, env_kwargs: Mapping[str, Any], more: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
    if isinstance(id, plugins.Given):
        return _made_by(id.object, {**env_kwargs, **more})
    module, _, name = id.rpartition(":")
    if module:
        plugins.load(module)
    spec = gymnasium.spec(name)
    if "mujoco" in str(spec.entry_point) or "mujoco" in sys.modules:
        take_mujoco_warnings()
    limit = {} if spec.max_episode_steps else {"max_episode_steps": DEFAULT_TIME_LIMIT}
    try:
        with plugins.their_settings(watch=True):
            return gymnasium.make(name, disable_env_checker=True, **(limit | dict(env_kwargs) | dict(more)))
    finally:
        if "mujoco" in sys.modules:  # the environment may have imported it only now
            take_mujoco_warnings()


def _made_by(make: Callable[..., Any], kwargs: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    """Call a function that makes an environment; it gets a render mode only if it takes one. Raises TypeError."""
    with contextlib.suppress(ValueError):  # some built-in functions have no signature
        taken = inspect.signature(make).parameters.values()
        if not any(p.name == "render_mode" or p.kind is p.VAR_KEYWORD for p in taken):
            kwargs.pop("render_mode", None)
    with plugins.their_settings(watch=True):
        env = make(**kwargs)
    if not isinstance(env, gymnasium.Env):
        raise TypeError(f"it returned a {type(env).__name__}, and must return a gymnasium.Env")
    if "mujoco" in sys.modules:
        take_mujoco_warnings()
    return env


def take_mujoco_warnings() -> None:
    """Turn MuJoCo's warnings into Python's. Otherwise MuJoCo writes a log file into the current directory."""
    import mujoco

    def warn(text: str) -> None:
        if "deprecated" not in text:  # only the author of the model can act on it
            warnings.warn(f"MuJoCo: {text}", RuntimeWarning, stacklevel=2)

    mujoco.set_mju_user_warning(warn)


def describe(error: BaseException) -> str:
    """Return an exception as one line; if it says nothing, with the line of code that raised it."""
    text = " ".join(text_of(error).split())
    if not text and (frames := traceback.extract_tb(error.__traceback__)):
        text = f"{frames[-1].line} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def check_spaces(observation: spaces.Space[Any], action: spaces.Space[Any], id: str) -> None:
    """Raise `EnvError` for spaces that no policy can observe or act in."""
    if text := refusal(observation, action):
        raise EnvError(f"env={id}: {text}.")


def close(env: gymnasium.Env[Any, Any]) -> None:
    """Close an environment. What it raises then harms nobody."""
    with contextlib.suppress(*FOREIGN):
        env.close()


def time_limit(env: gymnasium.Env[Any, Any]) -> int | None:
    """Return the steps after which Gymnasium cuts an environment's episodes off, or None if it does not."""
    limit = None if env.spec is None else env.spec.max_episode_steps
    inner = env
    while limit in OFF and isinstance(inner, gymnasium.Wrapper):  # a wrapper of the user's, which no spec tells of
        limit = inner._max_episode_steps if isinstance(inner, gymnasium.wrappers.TimeLimit) else None
        inner = inner.env
    return None if limit in OFF else limit


def bounded(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """Return an environment whose episodes end, since a training or an evaluation waits for them."""
    return env if time_limit(env) else gymnasium.wrappers.TimeLimit(env, DEFAULT_TIME_LIMIT)


class GymnasiumVector:
    """n Gymnasium environments, each made at its first reset."""

    def __init__(
        self,
        id: str,
        n: int,
        env_kwargs: Mapping[str, Any],
        obs_first: int | None = None,
        *,
        endless: bool = False,
        view: View = PLAIN,
    ) -> None:
        self.errors: dict[int, str] = {}
        self._id, self._kwargs, self._obs_first, self._endless = id, env_kwargs, obs_first, endless
        self._view = view
        self._envs: list[gymnasium.Env[Any, Any] | None] = [None] * n
        self._process = os.getpid()
        self._shape = ObservationShape(0)  # of an observation; known once the first environment is made
        self.measures: tuple[str, ...] = ()  # known then too
        self.curriculum: Curriculum | None = None  # and this
        self.difficulty = 1.0
        self._pack: Packer
        self._act: Callable[[Any], Any]  # a row of `actions` → an action

    def reset(self, ids: Ids, seeds: Seeds) -> Floats:
        rows = [self._reset_one(i, seed) for i, seed in zip(ids, seeds, strict=True)]
        self._end_copy()
        nothing = np.full(self._shape.row, self._shape.nothing, self._shape.dtype)
        return np.stack([nothing if row is None else row for row in rows])

    def step(self, ids: Ids, actions: NDArray[Any]) -> tuple[Floats, Floats, Bools, Bools]:
        n = len(ids)
        obs = np.empty((n, *self._shape.row), self._shape.dtype)
        reward, terminated, truncated = np.empty(n), np.empty(n, np.bool_), np.empty(n, np.bool_)
        with plugins.their_settings():
            for row, i in enumerate(ids):
                env = self._envs[i]
                try:
                    if env is None:
                        raise RuntimeError("step before a successful reset")
                    seen, value, ends, cut, _ = env.step(self._act(actions[row]))
                    terminated[row] = ends if type(ends) is bool else flag(ends)
                    truncated[row] = cut if type(cut) is bool else flag(cut)
                    reward[row] = value if type(value) is float else number(value)
                    self._pack.write(obs[row], seen)
                    if diverged(env):
                        reward[row], terminated[row] = np.nan, True
                except FOREIGN as error:
                    self._broke(i, "step", error)
                    obs[row], reward[row] = self._shape.nothing, np.nan
                    terminated[row], truncated[row] = True, False
                self._end_copy()
        return obs, reward, terminated, truncated

    def measured(self, ids: Ids) -> Floats:
        """Return the sums over the steps of the present episodes, (n, K); zeros where an environment broke."""
        nothing = np.zeros((1, len(self.measures)))
        envs = [self._envs[i] for i in ids]
        return np.concatenate([nothing if env is None else sums_of(env.unwrapped, [0]) for env in envs])

    def close(self) -> None:
        for env in self._envs:
            if env is not None:
                close(env)
        self._envs = [None] * len(self._envs)

    def _reset_one(self, i: int, seed: int | np.random.Generator) -> Floats | None:
        env = self._envs[i]
        try:
            if env is None:
                env = make_one(self._id, self._kwargs, view=self._view)
                env = self._envs[i] = env if self._endless else bounded(env)
                self._pack = Packer(env.observation_space, self._obs_first)
                self._shape, self._act = self._pack.shape, action_maker(env.action_space)
                self.measures, self.curriculum = names_of(env.unwrapped), curriculum_of(env.unwrapped)
            given: dict[str, Any] = {} if self.curriculum is None else {"options": {"difficulty": self.difficulty}}
            with plugins.their_settings(watch=True):
                if isinstance(seed, np.random.Generator):
                    env.unwrapped.np_random = seed
                    returned = env.reset(**given)
                else:
                    returned = env.reset(seed=int(seed), **given)
                if not isinstance(returned, tuple) or len(returned) != 2:
                    raise TypeError("it returned an observation alone. Gymnasium's reset returns (observation, info)")
                return self._pack(returned[0])
        except FOREIGN as error:
            if not self._shape.size:
                raise EnvError(f"env={self._id}: cannot be made: {describe(error)}") from error
            if env is None and any(other is not None for other in self._envs):
                self.errors[int(i)] = f"a second one in the same process cannot be made: {describe(error)}{ALONE}"
            else:
                self._broke(i, "reset", error)
            return None

    def _end_copy(self) -> None:
        """End this process if an environment has forked it: it would train beside the one that it is a copy of."""
        if os.getpid() != self._process:
            os._exit(1)

    def _broke(self, i: int, where: str, error: BaseException) -> None:
        """Record the error and drop the environment, whose state is unknown. The next reset makes a new one."""
        hint = OLD_STEP if "expected 5, got 4" in text_of(error) else ""
        self.errors[int(i)] = f"its {where} raised {describe(error)}{hint}"
        env, self._envs[i] = self._envs[i], None
        if env is not None:
            close(env)


def number(reward: Any) -> float:
    """Return a reward, which may be an array of one number. Raises TypeError for text and the like."""
    found = np.asarray(reward)
    if found.dtype.kind not in "biufO" or reward is np.ma.masked:
        raise TypeError(f"the reward is {reward!r}, which is no number")
    return float(found.astype(np.float64).item())


def flag(ends: Any) -> bool:
    """Return whether an episode ends; None counts as no. Raises TypeError for what is neither true nor false."""
    if ends is None:
        return False
    found = np.asarray(ends)
    if found.dtype.kind not in "biuf" or (found.dtype.kind == "f" and found.item() not in (0, 1)):
        raise TypeError(f"an end is {ends!r}, which is neither true nor false. Return a bool")
    return bool(found.item())


def diverged(env: gymnasium.Env[Any, Any]) -> bool:
    """Tell from MuJoCo's warnings whether a simulation diverged.

    MuJoCo then resets it in the middle of the episode, and the task would reward the jump.
    """
    data = getattr(env.unwrapped, "data", None)
    warning = getattr(data, "warning", None)
    return warning is not None and any(warning.number[_BAD_WARNINGS].tolist())

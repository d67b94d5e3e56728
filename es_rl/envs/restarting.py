"""Simulations that restart without new seeds, for the vector environments of other libraries.

Each simulation has its own generator, made from its seed as Gymnasium makes it. Later episodes continue this generator,
so a whole training equals one on Gymnasium's own environments, restarts included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from numpy.typing import NDArray

from es_rl.envs.gymnasium_backend import make_one
from es_rl.envs.spaces import Bools, Floats, Ids, Ints
from es_rl.errors import ConfigError, EnvError

if TYPE_CHECKING:
    from es_rl.envs import VectorEnv


@runtime_checkable
class Drawing(Protocol):
    """An environment that can draw any simulation of its task."""

    def draw(self, simulations: Any, i: int) -> Any:
        """Return a picture of simulation i."""


class Restarting:
    """Simulations of a `VectorEnv`, their generators, and what other libraries expect of an environment.

    `env` is Gymnasium's own environment of the same id; it provides the spaces and draws pictures.
    """

    def __init__(
        self, vector: VectorEnv, id: str, n: int, env_kwargs: Mapping[str, Any], *, obs_first: int | None = None,
        render_mode: str | None = None,
    ) -> None:  # fmt: skip
        self.vector, self.ids, self._begun = vector, np.arange(n), False
        self.env: gymnasium.Env[Any, Any] = make_one(id, env_kwargs, render_mode=render_mode)
        self.observation_space = _first(self.env.observation_space, obs_first)
        self.action_space = self.env.action_space
        self.generators = [seeding.np_random()[0] for _ in range(n)]

    def reset(self, ids: Ids, seeds: Sequence[int | None]) -> Floats:
        """Start episodes and return observations. A seed makes a new generator; None continues the current one.

        Raises `EnvError` if an environment broke.
        """
        for i, seed in zip(ids, seeds, strict=True):
            if seed is not None:
                self.generators[i] = seeding.np_random(int(seed))[0]
        obs = self.vector.reset(ids, [self.generators[i] for i in ids])
        self._check_errors()
        self._begun = True
        return obs

    def step(self, actions: NDArray[Any], over: Ids = ()) -> tuple[Floats, Floats, Bools, Bools, Ints]:
        """Step all simulations; return observations, rewards, terminated, truncated, and the ids of diverged ones.

        What simulations do whose episodes are `over` does not count. A diverged one terminates with reward 0 and a
        finite observation.

        Raises `ConfigError` for actions of the wrong shape or before a reset, `EnvError` if an environment broke.
        """
        chosen = np.asarray(actions, self.action_space.dtype)
        wanted = (len(self.ids), *(self.action_space.shape or ()))
        if chosen.shape != wanted:
            raise ConfigError(f"actions of shape {chosen.shape}: must be {wanted}, one row for each simulation.")
        if not self._begun:
            raise ConfigError("step: no episode has begun. Call reset first.")
        obs, reward, terminated, truncated = self.vector.step(self.ids, chosen)
        self._check_errors(over)
        diverged = np.flatnonzero(~np.isfinite(reward))
        if len(diverged):
            reward[diverged], obs[diverged] = 0.0, np.nan_to_num(obs[diverged], posinf=0.0, neginf=0.0)
        return obs, reward, terminated, truncated, diverged

    def picture(self, i: int) -> Any:
        """Return a picture of a simulation, drawn by Gymnasium's environment."""
        import mujoco

        env, vector = cast(Any, self.env.unwrapped), cast(Any, self.vector)
        if isinstance(env, Drawing):
            return env.draw(vector, i)
        mujoco.mj_setState(env.model, env.data, vector.state(i), int(mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_forward(env.model, env.data)
        return env.render()

    def close(self) -> None:
        """Release the resources of the simulations. Closing again does nothing."""
        self._begun = False
        self.vector.close()
        self.env.close()

    def _check_errors(self, over: Ids = ()) -> None:
        """Raise `EnvError` for the first simulation that broke. The next reset begins all anew."""
        told = dict(self.vector.errors)
        self.vector.errors.clear()
        for i, text in told.items():
            if i not in over:
                raise EnvError(f"simulation {i}: {text}")


def _first(space: spaces.Space[Any], first: int | None) -> spaces.Space[Any]:
    """Return the space of the first numbers of an observation. Raises `ConfigError`."""
    if first is None:
        return space
    if first < 1:
        raise ConfigError(f"obs_first={first}: must be at least 1.")
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise ConfigError(f"obs_first={first}: needs observations that are one row of numbers, not {space}.")
    return spaces.Box(space.low[:first], space.high[:first], dtype=space.dtype.type)

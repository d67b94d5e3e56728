"""The fast backend as a `VecEnv` of Stable-Baselines3, equal to its `DummyVecEnv` to the last bit.

This module needs Stable-Baselines3; see `es_rl.envs.sb3`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from es_rl import envs
from es_rl.envs.curriculum import checked, set_difficulty
from es_rl.envs.gymnasium_backend import make_one
from es_rl.envs.restarting import Restarting
from es_rl.errors import ConfigError

Indices = None | int | Sequence[int]


class FastVecEnv(VecEnv):  # type: ignore[misc]
    """See `es_rl.envs.sb3`. Returned arrays are copies and are never modified later."""

    def __init__(
        self,
        id: str,
        num_envs: int,
        env_kwargs: Mapping[str, Any],
        *,
        backend: str = "batch",
        threads: int = 1,
        obs_first: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None and backend != "batch":
            raise ConfigError(
                f"render_mode={render_mode}: with obs_first, only the fast backend can render. Leave one of them out."
            )
        vector = envs.make_vector(id, num_envs, backend, env_kwargs, obs_first, threads=threads, endless=True)
        self._simulations = Restarting(vector, id, num_envs, env_kwargs, obs_first=obs_first, render_mode=render_mode)
        self._begun = time.time()
        self._returns, self._lengths = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self._actions: NDArray[Any] = np.empty(0)
        super().__init__(num_envs, self._simulations.observation_space, self._simulations.action_space)
        self.metadata = self._simulations.env.metadata

    def reset(self) -> NDArray[Any]:
        """Start all episodes, with the seeds set by `seed` since the last reset; return observations (num_envs, O).

        The option `difficulty`, from 0 to 1, set by `set_options`, is that of the patches of a robot's ground.
        """
        by_difficulty: dict[float, list[int]] = {}
        for i, options in enumerate(self._options):
            by_difficulty.setdefault(checked(options.get("difficulty", 1.0)), []).append(i)
        seen = []
        for difficulty, ids in by_difficulty.items():
            set_difficulty(self._simulations.vector, difficulty)
            seen.append(self._simulations.reset(ids, [self._seeds[i] for i in ids]))
        set_difficulty(self._simulations.vector, None)  # options hold for one reset
        obs = np.concatenate(seen)[np.argsort([i for ids in by_difficulty.values() for i in ids])]
        self._returns[:], self._lengths[:] = 0, 0
        self.reset_infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return self._typed(obs)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Store the actions (num_envs, A) of the next step."""
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Step all simulations and restart finished ones; return observations, rewards, ends and infos."""
        obs, reward, terminated, truncated, diverged = self._simulations.step(self._actions)
        over, seen = terminated | truncated, self._typed(obs)
        self._returns += reward
        self._lengths += 1
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": False} for _ in range(self.num_envs)]
        for i in diverged:
            infos[i]["diverged"] = True
        ended = np.flatnonzero(over)
        if len(ended):
            for i in ended:
                infos[i] |= self._last_info(int(i), seen[i].copy(), cut=bool(truncated[i] and not terminated[i]))
            seen[ended] = self._simulations.reset(ended, [None] * len(ended))
            self._returns[ended], self._lengths[ended] = 0, 0
        return seen, reward.astype(np.float32), over, infos

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Return a picture of each simulation; None for each without a render mode."""
        if self.render_mode is None:
            return [None] * self.num_envs
        return [self._simulations.picture(i) for i in range(self.num_envs)]

    def close(self) -> None:
        """Release the resources of the simulations."""
        self._simulations.close()

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """Return an attribute of Gymnasium's environment, the same value for each simulation."""
        value = self._simulations.env.get_wrapper_attr(attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Raise `ConfigError`: simulations have no attributes of their own."""
        raise ConfigError(
            f"set_attr({attr_name}): fast simulations have no attributes. Give arguments to es_rl.envs.sb3."
        )

    def env_method(self, method_name: str, *args: Any, indices: Indices = None, **kwargs: Any) -> list[Any]:
        """Raise `ConfigError`: simulations have no methods of their own."""
        raise ConfigError(f"env_method({method_name}): fast simulations have no methods. Use a DummyVecEnv.")

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Indices = None) -> list[bool]:
        """Tell whether simulations do what a wrapper does. The statistics of `Monitor` are built in."""
        wrapped = wrapper_class is Monitor or is_wrapped(self._simulations.env, wrapper_class)
        return [wrapped for _ in self._get_indices(indices)]

    def _typed(self, obs: NDArray[Any]) -> NDArray[Any]:
        return obs.astype(self.observation_space.dtype).reshape(len(obs), *self.observation_space.shape)

    def _last_info(self, i: int, seen: NDArray[Any], *, cut: bool) -> dict[str, Any]:
        """Return the info of a step that ends an episode."""
        passed = round(time.time() - self._begun, 6)
        episode = {"r": round(float(self._returns[i]), 6), "l": int(self._lengths[i]), "t": passed}
        return {"TimeLimit.truncated": cut, "terminal_observation": seen, "episode": episode}


def dummy(id: str, num_envs: int, env_kwargs: Mapping[str, Any], render_mode: str | None) -> Any:
    """Return a `DummyVecEnv` of monitored environments, for ids without a fast environment."""

    def make() -> Any:
        return Monitor(make_one(id, env_kwargs, render_mode=render_mode))

    return DummyVecEnv([make] * num_envs)

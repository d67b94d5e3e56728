"""The fast backend as a vector environment of Gymnasium, equal to its `SyncVectorEnv` to the last bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from es_rl import envs
from es_rl.envs.curriculum import checked, set_difficulty
from es_rl.envs.mujoco_tasks import TASKS
from es_rl.envs.restarting import Restarting
from es_rl.envs.spaces import Bools, Floats
from es_rl.errors import ConfigError

Step = tuple[Floats, Floats, Bools, Bools, dict[str, Any]]


class FastVectorEnv(gymnasium.vector.VectorEnv[Floats, NDArray[Any], NDArray[Any]]):
    """See `es_rl.envs.make_vec`. Returned arrays are copies and are never modified later."""

    def __init__(
        self,
        id: str,
        num_envs: int,
        env_kwargs: Mapping[str, Any],
        *,
        threads: int = 1,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        vector = envs.make_vector(id, num_envs, "batch", env_kwargs, threads=threads, endless=True)
        self._simulations = Restarting(vector, id, num_envs, env_kwargs, render_mode=render_mode)
        self.num_envs, self.render_mode, self._mode = num_envs, render_mode, autoreset_mode
        self.metadata = {**self._simulations.env.metadata, "autoreset_mode": autoreset_mode}
        self.spec = self._simulations.env.spec
        self.single_observation_space = self._simulations.observation_space
        self.single_action_space = self._simulations.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._obs: Floats = np.zeros(self.observation_space.shape or ())
        self._over: Bools = np.zeros(num_envs, np.bool_)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Start all episodes, or those in `options["reset_mask"]`. With an integer seed, simulation i gets seed + i.

        `options["difficulty"]`, from 0 to 1, is that of the patches of a robot's ground.
        """
        seeds = self._seeds(seed)
        chosen = np.flatnonzero(_mask(options, self.num_envs))
        obs = self._obs.copy()
        set_difficulty(self._simulations.vector, checked((options or {}).get("difficulty", 1.0)))
        obs[chosen] = self._simulations.reset(chosen, [seeds[i] for i in chosen.tolist()])
        self._over[chosen] = False
        self._obs = obs
        return obs.copy(), {}

    def step(self, actions: NDArray[Any]) -> Step:
        """Step all simulations with actions (num_envs, A), and restart finished ones as `autoreset_mode` says."""
        before = np.flatnonzero(self._over)
        if len(before) and self._mode == AutoresetMode.DISABLED:
            raise ConfigError(
                f"step: the episodes of simulations {before.tolist()} have ended. Reset them with "
                f"options={{'reset_mask': mask}}."
            )
        obs, reward, terminated, truncated, diverged = self._simulations.step(actions, before)
        infos: dict[str, Any] = {}
        if len(before):  # only in next-step mode: these restart and ignore their actions
            obs[before] = self._restart(before)
            reward[before], terminated[before], truncated[before] = 0.0, False, False
            diverged = np.setdiff1d(diverged, before)
        self._over = terminated | truncated
        if len(diverged):
            infos = self._told(infos, "diverged", np.isin(self._simulations.ids, diverged))
        if self._mode == AutoresetMode.SAME_STEP and self._over.any():
            ended = np.flatnonzero(self._over)
            for i in ended:
                infos = self._add_info(infos, {"final_obs": obs[i].copy(), "final_info": {}}, int(i))
            obs[ended] = self._restart(ended)
            self._over = np.zeros(self.num_envs, np.bool_)
        self._obs = obs
        return obs.copy(), reward, terminated, truncated, infos

    def render(self) -> tuple[Any, ...] | None:
        """Return a picture of each simulation, or None without a render mode."""
        if self.render_mode is None:
            return None
        return tuple(self._simulations.picture(i) for i in range(self.num_envs))

    def close_extras(self, **kwargs: Any) -> None:
        """Release the resources of the simulations."""
        self._simulations.close()

    def _restart(self, ids: NDArray[np.int64]) -> Floats:
        set_difficulty(self._simulations.vector, None)  # options hold for one reset, as in Gymnasium
        return self._simulations.reset(ids, [None] * len(ids))

    def _seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ConfigError(f"seed: {len(seed)} seeds for {self.num_envs} simulations. Give one for each.")
        return seed

    @staticmethod
    def _told(infos: dict[str, Any], name: str, which: Bools) -> dict[str, Any]:
        return infos | {name: which, f"_{name}": which.copy()}


def __getattr__(name: str) -> Any:
    """Return the function `HalfCheetah_v4` that `gymnasium.make_vec("es_rl/HalfCheetah-v4")` calls, for any task."""
    task = name.replace("_", "-")
    if task in TASKS:
        return partial(envs.make_vec, task)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _mask(options: Mapping[str, Any] | None, n: int) -> Bools:
    """Return which simulations to reset, (n,). Raises `ConfigError`."""
    mask = (options or {}).get("reset_mask")
    if mask is None:
        return np.ones(n, np.bool_)
    if not isinstance(mask, np.ndarray) or mask.shape != (n,) or mask.dtype != np.bool_ or not mask.any():
        raise ConfigError(f"options[reset_mask]={mask}: must be a boolean array of shape ({n},), not all False.")
    return mask

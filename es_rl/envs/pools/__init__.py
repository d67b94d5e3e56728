"""Environments of EnvPool, which steps them in C++: Atari, ViZDoom, Procgen, MiniGrid, dm_control and others.

    tasks       which there are, their options, spaces and limits
    vector      simulations of a `VectorEnv`
    single      one of them as a `gymnasium.Env`: for films, exports and windows

EnvPool is imported when an environment of it is asked for: it is an extra.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium

from es_rl.envs.gymnasium_backend import make_one

NAME = "envpool"  # of the backend


def make_single(id: str, env_kwargs: Mapping[str, Any], backend: str, **more: Any) -> gymnasium.Env[Any, Any]:
    """Make one environment of EnvPool if that is the backend, else of Gymnasium. `more`: `render_mode`, `view`."""
    if backend != NAME:
        return make_one(id, env_kwargs, **more)
    more.pop("view", None)  # EnvPool has options of its own
    from es_rl.envs.pools.single import make_pool_env

    return make_pool_env(id, env_kwargs, **more)


def make_vector(id: str, n: int, env_kwargs: Mapping[str, Any], obs_first: int | None = None, **more: Any) -> Any:
    """Make n simulations: see `es_rl.envs.pools.vector.PoolVector`."""
    from es_rl.envs.pools.vector import PoolVector

    return PoolVector(id, n, env_kwargs, obs_first, **more)

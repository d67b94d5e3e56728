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
from es_rl.envs.pixels import PLAIN, View
from es_rl.errors import EnvError

NAME = "envpool"  # of the backend


def make_single(
    id: str, env_kwargs: Mapping[str, Any], backend: str, *, view: View = PLAIN, render_mode: str | None = None
) -> gymnasium.Env[Any, Any]:
    """Make one environment of EnvPool if that is the backend, else of Gymnasium."""
    if backend != NAME:
        return make_one(id, env_kwargs, view=view, render_mode=render_mode)
    from es_rl.envs.pools.single import make_pool_env

    _refuse(view)
    return make_pool_env(id, env_kwargs, render_mode=render_mode)


def make_vector(
    id: str, n: int, env_kwargs: Mapping[str, Any], obs_first: int | None = None, *, view: View = PLAIN, **more: Any
) -> Any:
    """Make n simulations: see `es_rl.envs.pools.vector.PoolVector`."""
    from es_rl.envs.pools.vector import PoolVector

    _refuse(view)
    return PoolVector(id, n, env_kwargs, obs_first, **more)


def _refuse(view: View) -> None:
    if view.keys:
        raise EnvError(
            f"backend=envpool: knows no {view.keys[0].partition('=')[0]}. Give options of EnvPool's: "
            f"env_kwargs.frame_skip, or, where an environment has them, img_height, img_width, gray_scale, stack_num."
        )

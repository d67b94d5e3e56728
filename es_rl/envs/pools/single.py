"""One simulation of EnvPool as a `gymnasium.Env`, drawn by EnvPool itself: for films, exports and windows."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from es_rl.envs.pools.observations import one
from es_rl.envs.pools.tasks import Task
from es_rl.envs.spaces import row_of
from es_rl.errors import EnvError

FPS = 30.0  # steps per second of simulated time, where nothing tells
MUJOCO = "envpool.mujoco."  # begins the families that are drawn by OpenGL
# Draw once in another process: where OpenGL is missing, MuJoCo ends the whole process.
TRIAL = """
import sys
from es_rl.envs.pools.single import make_pool_env
env = make_pool_env(sys.argv[1], {}, render_mode="rgb_array", tried=True)
env.reset(seed=0)
env.render()
"""


def make_pool_env(
    id: str, env_kwargs: Mapping[str, Any], *, render_mode: str | None = None, tried: bool = False
) -> gymnasium.Env[Any, Any]:
    """Make an environment; `render_mode` is None, rgb_array, or human for a window. Raises `EnvError`.

    `tried`: it is known that the pictures of this environment can be drawn here.
    """
    drawn = render_mode is not None
    env = PoolEnv(Task(id, env_kwargs), drawn=drawn)
    if drawn and env.task.family.startswith(MUJOCO):
        if not tried:
            _try_to_draw(id)
        env.context = _context()
    return gymnasium.wrappers.HumanRendering(env) if render_mode == "human" else env


class PoolEnv(gymnasium.Env[Any, Any]):
    """A pool of one. A reset with a seed makes it anew, so that an episode depends on its seed alone."""

    def __init__(self, task: Task, *, drawn: bool) -> None:
        self.task, self._more = task, {"render_mode": "rgb_array"} if drawn else {}
        self.observation_space, self.action_space = task.observation_space, task.action_space
        self.render_mode = "rgb_array" if drawn else None
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": task.rate or FPS}
        self.spec = EnvSpec(task.id, max_episode_steps=task.limit)
        self.context: Any = None  # of OpenGL, which must outlive the pictures
        self._pool: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None or self._pool is None:
            self._pool = None  # the old one ends before the next one begins
            begun = int(self.np_random.integers(2**31)) if seed is None else int(seed) % 2**31
            self._pool = self.task.pool([begun], **self._more)
        obs, _ = self._pool.reset()
        return one(self.observation_space, obs), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        row = self.task.actions(row_of(self.action_space, action)[None])
        obs, reward, terminated, truncated, _ = self._pool.step(row, np.zeros(1, np.int32))
        seen = one(self.observation_space, obs)
        return seen, float(reward[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> Any:
        return self._pool.render()[0]

    def close(self) -> None:
        self._pool = self.context = None


def _context() -> Any:
    """Make an OpenGL context and let this thread draw in it. EnvPool's MuJoCo looks for one, and makes none itself."""
    import mujoco

    context = mujoco.GLContext(640, 480)
    context.make_current()
    return context


def _try_to_draw(id: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # MuJoCo writes a log where it ends
        paths = os.pathsep.join(path for path in sys.path if path)
        tried = subprocess.run(
            [sys.executable, "-P", "-c", TRIAL, id], cwd=folder, env=os.environ | {"PYTHONPATH": paths},
            capture_output=True, check=False,
        )  # fmt: skip
    if tried.returncode:
        lines = tried.stderr.decode(errors="replace").strip().splitlines() or ["the process that tried it has ended"]
        raise EnvError(f"env={id}: EnvPool cannot draw it here: {lines[-1]}")

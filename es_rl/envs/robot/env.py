"""The Gymnasium environment of a declared task: one simulation of the fast one, which can be drawn."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from es_rl.envs.camera import DISTANCE, Camera, Mark, centre_and_radius, viewpoint
from es_rl.envs.curriculum import checked
from es_rl.envs.renderer import QUALITIES
from es_rl.envs.robot.declaration import check_task
from es_rl.envs.robot.task import Task
from es_rl.envs.robot.vector import RobotVector
from es_rl.envs.robot.world import heading, is_free
from es_rl.envs.spaces import Floats
from es_rl.envs.worlds import WORLDS
from es_rl.errors import ConfigError, EnvError


class RobotEnv(gymnasium.Env[NDArray[np.float64], NDArray[np.float32]]):
    """A robot's task. `randomise=False`: the nominal model, without noise and pushes."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array", "human"]}  # type: ignore[misc]

    def __init__(self, task: Task | str, render_mode: str | None = None, *, randomise: bool = True) -> None:
        self.render_mode, self.task = render_mode, (task := declared(task))
        self._simulations = RobotVector(task, 1, randomise=randomise)
        self.model = self._simulations.model
        self.dt = task.step_seconds
        vars(self)["metadata"] = self.metadata | {"render_fps": round(1 / task.step_seconds)}
        self.observation_space = spaces.Box(-np.inf, np.inf, (self._simulations.size,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (self.model.nu,), np.float32)
        self.curriculum = task.curriculum
        self.measures, self.measured = self._simulations.measures, self._simulations.measured
        self._camera: Camera | None = None
        self._window: Any = None
        self._data: mujoco.MjData | None = None

    @classmethod
    def simulations(cls, task: Task | str, n: int, obs_first: int | None, **settings: Any) -> RobotVector:
        """Return n simulations of a task, stepped together: see `RobotVector`."""
        return RobotVector(declared(task), n, obs_first, **settings)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        super().reset(seed=seed)
        self._simulations.difficulty = checked((options or {}).get("difficulty", 1.0))
        self._simulations.errors.clear()  # of an episode before
        return self._simulations.reset([0], [self.np_random])[0], self._info()

    def step(self, action: NDArray[np.float32]) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, _ = self._simulations.step([0], np.asarray(action)[None])
        if self._simulations.errors:
            raise ValueError(self._simulations.errors.pop(0))
        return obs[0], float(reward[0]), bool(terminated[0]), False, self._info()

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """The range of each number that the robot is told, by name."""
        return self.task.command.ranges if self.task.command else {}

    def command(self) -> dict[str, float]:
        """Return what the robot is told now, by name."""
        return self._simulations.command(0)

    def steer(self, command: Mapping[str, float]) -> None:
        """Tell the robot these numbers, by name, until its episode ends. Raises `ConfigError` for another name."""
        self._simulations.steer(0, command)

    def push(self, change: Floats) -> None:
        """Add to the first velocities; of a free root, these are x and y, in metres per second."""
        self._simulations.push(0, change)

    def marks(self, data: mujoco.MjData) -> list[Mark]:
        """Return what is drawn besides the robot, whose state is in `data`."""
        return _marks(self._simulations, 0, data)

    def copy_to(self, data: mujoco.MjData) -> None:
        """Copy the robot's present state to an `MjData` of its model, to draw it."""
        self._simulations.data(0, data)
        mujoco.mj_forward(self.model, data)

    def render(self) -> Any:
        return self.draw(self._simulations, 0)

    def draw(self, simulations: RobotVector, i: int) -> Any:
        """Draw one of some simulations of this task."""
        data, marks = self.scene(simulations, i)
        if self.render_mode == "human":
            return self._show(data, marks)
        if self._camera is None:
            self._camera = Camera(self.model, QUALITIES["fast"])
        return self._camera.picture(data, marks)

    def scene(self, simulations: RobotVector | None = None, i: int = 0) -> tuple[mujoco.MjData, list[Mark]]:
        """Return one of some simulations, and what is drawn besides it. By default, of this environment."""
        simulations = simulations or self._simulations
        if self._data is None:
            self._data = mujoco.MjData(self.model)
        simulations.data(i, self._data)
        mujoco.mj_forward(self.model, self._data)
        return self._data, _marks(simulations, i, self._data)

    def _show(self, data: mujoco.MjData, marks: Sequence[Mark]) -> None:
        """Draw in a window."""
        from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

        place, radius = centre_and_radius(self.model, data)
        if self._window is None:
            azimuth, elevation = viewpoint(self.model)
            view = {"distance": DISTANCE * radius, "azimuth": azimuth, "elevation": elevation}
            self._window = MujocoRenderer(self.model, data, view)
        viewer = self._window._get_viewer("human")
        viewer.cam.lookat[:] = place
        for mark in marks:
            viewer.add_marker(**vars(mark))
        self._window.render("human")

    def close(self) -> None:
        for drawing in (self._camera, self._window):
            if drawing is not None:
                drawing.close()
        self._simulations.close()

    def _info(self) -> dict[str, Any]:
        return {f"command/{name}": value for name, value in self._simulations.command(0).items()}


def _marks(simulations: RobotVector, i: int, data: mujoco.MjData) -> list[Mark]:
    """Return what is drawn besides a simulation: an arrow for its command, a ball at the place that its task marks."""
    found, place = [], simulations.mark(i)
    _, radius = centre_and_radius(simulations.model, data)
    told = simulations.command(i)
    if place is not None:
        found.append(_ball(place, 0.05 * radius))
    if np.hypot(told.get("forward", 0.0), told.get("sideways", 0.0)) >= 0.01 and is_free(simulations.model):
        found.append(_arrow(data, told.get("forward", 0.0), told.get("sideways", 0.0), radius))
    return found


def _arrow(data: mujoco.MjData, forward: float, sideways: float, radius: float) -> Mark:
    """Return an arrow above the root that shows a velocity in the root's heading, in metres per second."""
    angle = heading(data.qpos[3:7]) + np.arctan2(sideways, forward)
    along, up = np.array([np.cos(angle), np.sin(angle), 0.0]), np.array([0.0, 0.0, 1.0])
    axes = np.stack([np.cross(along, up), up, along], axis=1)  # an arrow points along its third axis
    return Mark(
        type=int(mujoco.mjtGeom.mjGEOM_ARROW),
        pos=data.qpos[:3] + 0.7 * radius * up,
        size=np.array([0.04, 0.04, 0.2 + 1.2 * float(np.hypot(forward, sideways))]) * radius,
        mat=axes.ravel(),
        rgba=np.array([0.95, 0.75, 0.1, 1.0]),
    )


def _ball(place: Floats, radius: float) -> Mark:
    return Mark(
        type=int(mujoco.mjtGeom.mjGEOM_SPHERE),
        pos=place,
        size=np.full(3, radius),
        mat=np.eye(3).ravel(),
        rgba=np.array([0.95, 0.25, 0.15, 0.75]),
    )


def declared(task: Task | str) -> Task:
    """Return a task, or that of the project's own robot of this name. No other module is imported by name."""
    if isinstance(task, Task):
        return task
    if task not in WORLDS.values():
        raise EnvError(f"task={task}: no robot of es_rl.envs.worlds. Leave env_kwargs.task out.")
    found: Task = importlib.import_module(f"es_rl.envs.worlds.{task}").task()
    return found


def register(id: str, task: Task) -> None:
    """Register a task as a Gymnasium id. es_rl trains it on all simulations at once. Raises `ConfigError`."""
    if not isinstance(task, Task):
        raise ConfigError(f"{id}: needs a robot.Task, and this is a {type(task).__name__}.")
    check_task(task)
    entry: Any = RobotEnv
    gymnasium.register(id, entry, max_episode_steps=task.steps, kwargs={"task": task})

"""What can be done to a simulation from outside: tell it a command, push it, copy it to a window."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import gymnasium

from es_rl.envs.spaces import Floats


class Body(Protocol):
    """A simulation on MuJoCo. Own robots are such; Gymnasium's tasks are made such by `MujocoBody`."""

    model: Any  # mujoco.MjModel

    @property
    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """The range of each number of the command, by name."""

    def command(self) -> dict[str, float]:
        """Return the present command, by name."""

    def steer(self, command: Mapping[str, float]) -> None:
        """Set the command until the episode ends."""

    def push(self, change: Floats) -> None:
        """Add to the first velocities."""

    def copy_to(self, data: Any) -> None:
        """Copy the state to an `MjData` of the model."""

    def marks(self, data: Any) -> Sequence[Any]:
        """Return what is drawn besides a state, a `Mark` each."""


class MujocoBody:
    """A task whose environment holds its `MjModel` and `MjData`. It has no command."""

    ranges: Mapping[str, tuple[float, float]] = {}

    def __init__(self, model: Any, data: Any) -> None:
        self.model, self._data = model, data

    def command(self) -> dict[str, float]:
        return {}

    def steer(self, command: Mapping[str, float]) -> None:
        pass

    def push(self, change: Floats) -> None:
        self._data.qvel[: len(change)] += change

    def copy_to(self, data: Any) -> None:
        import mujoco

        mujoco.mj_copyData(data, self.model, self._data)

    def marks(self, data: Any) -> Sequence[Any]:
        return ()


def body_of(env: gymnasium.Env[Any, Any]) -> Body | None:
    """Return an environment's simulation if it is one of MuJoCo, or else None."""
    if "mujoco" not in sys.modules:
        return None
    import mujoco

    from es_rl.envs.robot.env import RobotEnv

    inside: Any = env.unwrapped
    if isinstance(inside, RobotEnv):
        return inside
    model, data = getattr(inside, "model", None), getattr(inside, "data", None)
    sound = isinstance(model, mujoco.MjModel) and isinstance(data, mujoco.MjData)
    return MujocoBody(model, data) if sound else None

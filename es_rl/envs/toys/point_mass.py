"""es_rl/PointMass-v0: push a point with friction to the origin. Learnt in seconds; for tests and demos.

State: position and velocity in the plane. Action: a force in [−1, 1]². Each episode starts at rest, at a random point
of the square [−1, 1]², and lasts `STEPS` steps. Reward of a step: −|position| − 0.01·|force|².
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

ID = "es_rl/PointMass-v0"
STEPS = 100
# The mean return at which the task counts as solved. Doing nothing gives about −74, a well-tuned
# proportional-derivative controller about −3.4.
SOLVED = -8.0


class PointMass(gymnasium.Env[NDArray[np.float64], NDArray[np.float32]]):
    """The environment that the module describes."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 20}  # type: ignore[misc]

    dt = 0.1
    friction = 1.0
    strength = 4.0

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._position = [0.0, 0.0]
        self._velocity = [0.0, 0.0]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        super().reset(seed=seed)
        self._position = self.np_random.uniform(-1.0, 1.0, 2).tolist()
        self._velocity = [0.0, 0.0]
        return self._observe(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        # Plain numbers: arrays of two numbers take twice as long.
        force = [min(max(float(part), -1.0), 1.0) for part in action]
        for i, part in enumerate(force):
            self._velocity[i] += self.dt * (self.strength * part - self.friction * self._velocity[i])
            self._position[i] += self.dt * self._velocity[i]
        effort = np.array(force)
        reward = -float(np.hypot(self._position[0], self._position[1])) - 0.01 * float(effort @ effort)
        return self._observe(), reward, False, False, {}

    def render(self) -> NDArray[np.uint8]:
        """Draw a white square with the goal as a ring and the point as a disc."""
        side = 240
        axis = np.linspace(-1.5, 1.5, side)
        x, y = np.meshgrid(axis, -axis)
        frame = np.full((side, side, 3), 255, np.uint8)
        frame[np.abs(np.hypot(x, y) - 0.12) < 0.02] = (60, 160, 60)
        frame[np.hypot(x - self._position[0], y - self._position[1]) < 0.08] = (40, 80, 200)
        return frame

    def _observe(self) -> NDArray[np.float64]:
        return np.array([*self._position, *self._velocity])


def register() -> None:
    """Register the id with Gymnasium."""
    if ID not in gymnasium.registry:
        gymnasium.register(ID, entry_point=f"{__name__}:PointMass", max_episode_steps=STEPS, reward_threshold=SOLVED)

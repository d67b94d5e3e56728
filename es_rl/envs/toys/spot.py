"""es_rl/Spot-v0: walk to a green spot. The policy sees a picture of what is around the walker.

The picture has the walker in its middle and the spot, a square of `SIDE` pixels, where it is from there. An action
moves the walker by up to `REACH` pixels to the right and downwards, but never so far that the spot is out of sight. A
reward is the way that the walker came nearer, as a share of the distance at the beginning, so the best return is 1.
Observation: (16, 16, 3) bytes; with numbers=true a Dict of this picture, `picture`, and the time that is left, `left`.
Action: two numbers in [−1, 1].
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

ID = "es_rl/Spot-v0"
PIXELS = 16  # side of the picture
SIDE = 3  # of the spot, in pixels
REACH = 2.0  # pixels in a step
STEPS = 6  # of an episode: enough to reach any spot
LEAST = 4.0  # pixels between walker and spot at the beginning
FARTHEST = (PIXELS - SIDE) // 2  # pixels from the walker to the spot along each side, at most
ZOOM = 20  # of films
SOLVED = 0.7  # mean return at which the task counts as solved
GREEN = 1

Image = NDArray[np.uint8]


class Spot(gymnasium.Env[Any, NDArray[np.float32]]):
    """The environment that the module describes."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 5}  # type: ignore[misc]

    def __init__(self, render_mode: str | None = None, *, numbers: bool = False) -> None:
        self.render_mode, self._numbers = render_mode, numbers
        picture = spaces.Box(0, 255, (PIXELS, PIXELS, 3), np.uint8)
        self.observation_space: spaces.Space[Any] = picture
        if numbers:
            self.observation_space = spaces.Dict({"left": spaces.Box(0.0, 1.0, (1,), np.float64), "picture": picture})
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._way = np.zeros(2)  # from the walker to the spot: columns and rows
        self._begun, self._step = 1.0, 0  # the distance at the beginning

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._step = 0
        while True:
            self._way = self.np_random.integers(-FARTHEST, FARTHEST + 1, 2).astype(np.float64)
            if (distance := self._distance()) >= LEAST:
                self._begun = distance
                return self._seen(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        before = self._distance()
        moved = REACH * np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        self._way = np.clip(self._way - moved, -FARTHEST, FARTHEST)
        self._step += 1
        return self._seen(), (before - self._distance()) / self._begun, self._step == STEPS, False, {}

    def render(self) -> Image | None:
        """Return the picture, enlarged."""
        return self._picture().repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)

    def _distance(self) -> float:
        return float(np.linalg.norm(self._way))

    def _picture(self) -> Image:
        picture = np.zeros((PIXELS, PIXELS, 3), np.uint8)
        column, row = (np.rint(self._way).astype(int) + FARTHEST).tolist()
        picture[row : row + SIDE, column : column + SIDE, GREEN] = 255
        return picture

    def _seen(self) -> Any:
        picture = self._picture()
        return {"left": np.array([1.0 - self._step / STEPS]), "picture": picture} if self._numbers else picture


def register() -> None:
    """Register the id with Gymnasium."""
    if ID not in gymnasium.registry:
        gymnasium.register(ID, entry_point=f"{__name__}:Spot", reward_threshold=SOLVED)

"""es_rl/Recall-v0: say at the end what was shown at the beginning. A toy that only a policy with memory can learn.

The first observation shows a cue, −1 or 1; those that follow show nothing, and the last one asks. The action at the
last step earns cue·action, any other nothing. The optimum is 1, and without memory no policy expects more than 0.
Observation: (cue or 0, whether it is asked now). Action: a number in [−1, 1].
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

ID = "es_rl/Recall-v0"
STEPS = 8
SOLVED = 0.9


class Recall(gymnasium.Env[NDArray[np.float64], NDArray[np.float32]]):
    """The toy environment; see the module."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}  # type: ignore[misc]

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._cue, self._step = 1.0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        super().reset(seed=seed)
        self._cue, self._step = float(self.np_random.choice([-1.0, 1.0])), 0
        return np.array([self._cue, 0.0]), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        asked = self._step == STEPS - 1
        reward = self._cue * float(np.clip(action[0], -1.0, 1.0)) if asked else 0.0
        self._step += 1
        return np.array([0.0, float(self._step == STEPS - 1)]), reward, asked, False, {}


def register() -> None:
    """Make the id known to Gymnasium."""
    if ID not in gymnasium.registry:
        gymnasium.register(ID, entry_point=f"{__name__}:Recall", max_episode_steps=STEPS + 1, reward_threshold=SOLVED)

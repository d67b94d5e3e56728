"""es_rl/Recall-v0: say at the end what was shown at the start. Only a policy with memory can learn it.

The first observation shows a cue, −1 or 1. The observation `gap` steps later asks for it; those between show nothing.
The action at the question earns cue·action and ends the episode; any other earns 0. The best return is 1. Without
memory, no policy has an expected return above 0. Observation: (cue or 0, 1 at the question and 0 otherwise). Action: a
number in [−1, 1].
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from es_rl.errors import EnvError

ID = "es_rl/Recall-v0"
GAP = 7  # steps between the cue and the question
MAX_GAP = 9_000  # steps; must be below `DEFAULT_TIME_LIMIT`, which ends the episode
SOLVED = 0.9  # mean return at which the task counts as solved


class Recall(gymnasium.Env[NDArray[np.float64], NDArray[np.float32]]):
    """The environment that the module describes."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}  # type: ignore[misc]

    def __init__(self, render_mode: str | None = None, *, gap: int = GAP) -> None:
        """Raise `EnvError` for a gap that is not a whole number from 1 to `MAX_GAP`."""
        if isinstance(gap, bool) or not isinstance(gap, int) or not 1 <= gap <= MAX_GAP:
            raise EnvError(f"env_kwargs.gap={gap}: must be a whole number of steps from 1 to {MAX_GAP}.")
        self.render_mode, self._gap = render_mode, gap
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
        asked = self._step == self._gap
        reward = self._cue * float(np.clip(action[0], -1.0, 1.0)) if asked else 0.0
        self._step += 1
        return np.array([0.0, float(self._step == self._gap)]), reward, asked, False, {}


def register() -> None:
    """Register the id with Gymnasium."""
    if ID not in gymnasium.registry:
        gymnasium.register(ID, entry_point=f"{__name__}:Recall", reward_threshold=SOLVED)

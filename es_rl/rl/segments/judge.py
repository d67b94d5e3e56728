"""Give every recorded step its advantage.

Shapes: T steps, N simulations, n = T·N recorded steps, O observation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl import es
from es_rl.envs.measures import statistics
from es_rl.envs.spaces import Floats
from es_rl.rl.segments.config import CriticConfig
from es_rl.rl.segments.critic import Critic, advantages, explained_variance
from es_rl.rl.segments.state import Simulations
from es_rl.rl.segments.worker import SegmentResult


@dataclass(frozen=True)
class Played:
    """What all simulations did in a generation: the results of its jobs, side by side."""

    parts: Sequence[SegmentResult]
    measures: tuple[str, ...] = ()  # names of what the environment measured

    def all(self, name: str) -> NDArray[Any]:
        """Return an array of `Recorded`, of all simulations: (T, N, …)."""
        return np.concatenate([getattr(part.recorded, name) for part in self.parts], axis=1)

    def cut_off(self) -> NDArray[np.float32]:
        """Return the observations after the steps at which episodes were cut off, by step, then by simulation."""
        rows = np.zeros((*self.all("over").shape, self.parts[0].recorded.x.shape[2]), np.float32)
        first = 0
        for part in self.parts:
            steps, n = part.recorded, part.recorded.over.shape[1]
            rows[:, first : first + n][steps.over & ~steps.terminated] = steps.cut
            first += n
        found: NDArray[np.float32] = rows[self.all("over") & ~self.all("terminated")]
        return found

    @property
    def simulations(self) -> Simulations:
        """The simulations after the generation."""
        return Simulations.joined([part.simulations for part in self.parts])

    @property
    def broken(self) -> int:
        return sum(part.broken for part in self.parts)

    def metrics(self) -> dict[str, Any]:
        """Return statistics for the log; None for those of finished episodes if there are none."""
        # In an order that does not depend on the jobs: a mean's last bits do.
        finished = np.array(sorted(episode for part in self.parts for episode in part.finished)).reshape(-1, 2)
        returns, lengths = finished.mean(axis=0).tolist() if len(finished) else (None, None)
        measured, reward = np.concatenate([part.measured for part in self.parts]), self.all("reward")
        of_terms = statistics(self.measures, measured, steps=reward.size, episodes=len(finished))
        return (
            es.fitness_metrics(reward.sum(axis=0))
            | of_terms
            | {
                "return/mean": returns,
                "length/mean": lengths,
                "members/failed": self.broken,
                "steps/terminated": float(self.all("terminated").any(axis=0).mean()),
            }
        )


@dataclass(frozen=True)
class Judged:
    """What the critic makes of the steps."""

    advantages: Floats  # (T, N)
    value: Floats  # (T, N) predicted before each step
    sound: bool  # the critic's predictions were finite

    @classmethod
    def by(cls, critic: Critic, config: CriticConfig, played: Played, reward: Floats) -> Judged:
        """Judge steps by scaled rewards (T, N) and a critic; by rewards alone if its predictions are not finite."""
        value = critic.predict(played.all("x"), config)  # (T+1, N)
        if not (sound := bool(np.isfinite(value).all())):
            value = np.zeros_like(value)
        over, after = played.all("over"), value[1:].copy()
        after[over] = 0.0
        if sound and (cut := over & ~played.all("terminated")).any():  # these episodes would have gone on
            after[cut] = critic.predict(played.cut_off(), config)
        found = advantages(reward, value[:-1], after, over, discount=config.discount, gae=config.gae)
        return cls(found, value[:-1], sound)

    @property
    def targets(self) -> Floats:
        """What the critic should have predicted, (T, N)."""
        return self.value + self.advantages

    def metrics(self) -> dict[str, Any]:
        """Return statistics for the log."""
        return {"critic/explained_variance": explained_variance(self.value, self.targets)}

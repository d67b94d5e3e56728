"""The state of judged steps beyond the strategy's own, and the tensors by which a checkpoint holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from es_rl.envs.spaces import Floats
from es_rl.rl.segments.critic import Critic, RewardScale

LOG_STD = "log_std"


@dataclass
class Simulations:
    """N simulations in the middle of their episodes."""

    rows: Floats  # (N, S) as `Savable` has them
    obs: Floats  # (N, O)
    returns: Floats  # (N,) rewards of the episode so far
    lengths: Floats  # (N,) steps of the episode so far

    def part(self, chosen: range) -> Simulations:
        """Return some of them."""
        return Simulations(*(value[chosen.start : chosen.stop] for value in vars(self).values()))

    @classmethod
    def joined(cls, parts: list[Simulations]) -> Simulations:
        """Return simulations one part after another."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))


@dataclass(frozen=True)
class SegmentState:
    """What a generation depends on besides theta, its optimiser and the observation statistics."""

    simulations: Simulations
    scale: RewardScale
    explore: dict[str, Tensor]  # `log_std` (A,) of the noise on outputs, and its state in the optimiser
    critic: Critic

    def tensors(self) -> dict[str, Tensor]:
        """Return all of it by names such as `critic/0.weight`."""
        scale = {name: np.asarray(value, np.float64) for name, value in vars(self.scale).items()}
        arrays = _under("simulations", vars(self.simulations)) | _under("scale", scale)
        arrays |= _under("critic", self.critic.weights) | _under("critic_optim", self.critic.optim)
        return {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()} | _under(
            "explore", self.explore
        )

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> SegmentState:
        """Return the state that `tensors` made these of."""
        parts: dict[str, dict[str, Any]] = {}
        for full_name, value in tensors.items():
            kind, _, name = full_name.partition("/")
            parts.setdefault(kind, {})[name] = value
        explore = parts.pop("explore")
        parts.pop("curriculum", None)  # not of steps alone: see `es_rl.rl.difficulty`
        arrays: dict[str, dict[str, NDArray[Any]]] = {
            kind: {name: value.numpy() for name, value in part.items()} for kind, part in parts.items()
        }
        scale = arrays["scale"]
        return cls(
            Simulations(**arrays["simulations"]),
            RewardScale(scale["running"], float(scale["count"]), float(scale["variance"])),
            explore,
            Critic(arrays["critic"], arrays["critic_optim"]),
        )


def _under(kind: str, named: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{kind}/{name}": value for name, value in named.items()}

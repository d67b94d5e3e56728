"""Normalise observations by their running mean and standard deviation (ARS V2: Mania et al. 2018, section 3.2).

The statistics are buffers of the policy: count, mean and m2 = Σ (x − mean)². They are frozen during a generation. Its
episodes gather moments about the frozen mean. Moments add up over chunks, and `merge` updates the statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# Lower limit of the standard deviation: a dimension that moves for the first time must not become a huge number.
STD_FLOOR = 1e-2


@dataclass
class Moments:
    """Sums over the observations x (O) of each of N episodes, about a fixed mean: Σ (x − mean) and Σ (x − mean)²."""

    count: int  # observations in all episodes
    first: NDArray[np.float64]  # (N, O)
    second: NDArray[np.float64]  # (N, O)


class Normalizer(nn.Module):
    """(x − mean)/max(std, floor), clipped to ±clip; x clipped to ±clip before there are statistics.

    Uses the first `inputs` numbers of an observation.
    """

    count: Tensor
    mean: Tensor
    m2: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, inputs: int, clip: float) -> None:
        super().__init__()
        self.inputs, self.clip = inputs, clip
        self.gathers = True  # whether statistics are gathered
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(inputs, dtype=torch.float64))
        self.register_buffer("m2", torch.zeros(inputs, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(inputs, dtype=torch.float64), persistent=False)
        self.register_buffer("shift", torch.zeros(inputs, dtype=torch.float64), persistent=False)
        self.register_load_state_dict_post_hook(lambda module, _: module.refresh())  # type: ignore[no-untyped-call]

    def refresh(self) -> None:
        """Compute scale and shift from the statistics. Loading a state dict calls this."""
        std = (self.m2 / self.count.clamp(min=1.0)).sqrt().clamp(min=STD_FLOOR)
        self.scale = torch.where(self.count > 0, 1.0 / std, torch.ones_like(std))
        self.shift = -self.mean * self.scale

    def forward(self, obs: Tensor) -> Tensor:
        """Normalise observations (n, ≥ inputs) of any float type to (n, inputs) float32."""
        return torch.addcmul(self.shift, obs[..., : self.inputs], self.scale).clamp_(-self.clip, self.clip).float()


class Unnormalized(nn.Module):
    """The first `inputs` numbers of an observation, unchanged."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.inputs = inputs

    def forward(self, obs: Tensor) -> Tensor:
        """Return observations (n, ≥ inputs) of any float type as (n, inputs) float32."""
        return obs[..., : self.inputs].float()


def merge(buffers: Mapping[str, Tensor], moments: Sequence[Moments], prefix: str = "normalizer.") -> dict[str, Tensor]:
    """Return a policy's buffers, updated by the moments of a generation. The arguments are not changed.

    Moments are in the order of the members; how they are split into chunks does not matter. With s1, s2 the sums about
    the old mean over the new observations, and n the new count: mean' = mean + s1/n and m2' = m2 + s2 − s1²/n.
    """
    result: dict[str, Any] = dict(buffers)
    added = sum(part.count for part in moments)
    if added:
        first = torch.from_numpy(np.concatenate([part.first for part in moments]).sum(axis=0))
        second = torch.from_numpy(np.concatenate([part.second for part in moments]).sum(axis=0))
        n = buffers[prefix + "count"] + added
        result[prefix + "count"] = n
        result[prefix + "mean"] = buffers[prefix + "mean"] + first / n
        result[prefix + "m2"] = (buffers[prefix + "m2"] + second - first.square() / n).clamp(min=0.0)
    return result

"""Observations normalised by their running mean and standard deviation (ARS V2: Mania et al. 2018, section 3.2).

The statistics are buffers of the policy: count, mean and m2 = Σ (x − mean)². They are frozen while a generation runs;
its rollouts gather moments about the frozen mean, which add up over chunks, and `merge` moves the statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# Dimensions that never move exist; one that moves for the first time must not become a huge number.
STD_FLOOR = 1e-2


@dataclass
class Moments:
    """Sums over the observations x (O) of each of N episodes about a fixed mean: Σ (x − mean) and Σ (x − mean)²."""

    count: int  # of all observations
    first: NDArray[np.float64]  # (N, O)
    second: NDArray[np.float64]  # (N, O)


class Normalizer(nn.Module):
    """(x − mean)/max(std, floor), clipped to ±clip; the identity, clipped, before there are statistics.

    Sees the first `inputs` numbers of an observation.
    """

    count: Tensor
    mean: Tensor
    m2: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, inputs: int, clip: float) -> None:
        super().__init__()
        self.inputs, self.clip = inputs, clip
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(inputs, dtype=torch.float64))
        self.register_buffer("m2", torch.zeros(inputs, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(inputs, dtype=torch.float64), persistent=False)
        self.register_buffer("shift", torch.zeros(inputs, dtype=torch.float64), persistent=False)
        self.register_load_state_dict_post_hook(lambda module, _: module.refresh())  # type: ignore[no-untyped-call]

    def refresh(self) -> None:
        """Derive scale and shift from the statistics; loading a state dict does it by itself."""
        std = (self.m2 / self.count.clamp(min=1.0)).sqrt().clamp(min=STD_FLOOR)
        self.scale = torch.where(self.count > 0, 1.0 / std, torch.ones_like(std))
        self.shift = -self.mean * self.scale

    def forward(self, obs: Tensor) -> Tensor:
        """(n, ≥ inputs) of any float type → (n, inputs) float32."""
        return torch.addcmul(self.shift, obs[..., : self.inputs], self.scale).clamp_(-self.clip, self.clip).float()


class Unnormalized(nn.Module):
    """The first `inputs` numbers of an observation as they are."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.inputs = inputs

    def forward(self, obs: Tensor) -> Tensor:
        """(n, ≥ inputs) of any float type → (n, inputs) float32."""
        return obs[..., : self.inputs].float()


def merge(buffers: Mapping[str, Tensor], moments: Sequence[Moments], prefix: str = "normalizer.") -> dict[str, Tensor]:
    """A policy's buffers after the moments of a generation, given in the order of its members, however these were cut.

    The arguments stay as they were.

    With s1, s2 the sums about the old mean over the k new observations, and n the new count:
    mean' = mean + s1/n and m2' = m2 + s2 − s1²/n.
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

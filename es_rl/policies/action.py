"""Convert a network's raw outputs to actions of the environment's space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

SQUASHES: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "clip": lambda x: torch.clamp(x, -1.0, 1.0)}


UNBOUNDED = 1e15  # bounds this far from their middle, such as the largest float, mean that there are none


def _bounds(space: spaces.Box) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the bounds of a space in float32. A bound that float32 cannot represent is rounded inwards."""
    with np.errstate(over="ignore"):  # a bound beyond float32's range becomes infinite: no bound
        low, high = (np.asarray(bound, np.float32).reshape(-1) for bound in (space.low, space.high))
    outside = [np.isfinite(low) & (low < space.low.reshape(-1)), np.isfinite(high) & (high > space.high.reshape(-1))]
    return np.nextafter(low, high, out=low, where=outside[0]), np.nextafter(high, low, out=high, where=outside[1])


class ActionHead(nn.Module):
    """Box: squash outputs to [−1, 1] by tanh or clipping, then scale to [low, high]. Discrete: take the largest output.

    A Box dimension without finite bounds on both sides, or with bounds that mean none because they are so far apart,
    gets the raw output, clipped to the bound it has.
    """

    low: Tensor
    high: Tensor
    bounded: Tensor
    center: Tensor
    reach: Tensor

    def __init__(self, space: spaces.Space[Any], squash: str) -> None:
        super().__init__()
        self.squash, self._squash = squash, SQUASHES[squash]
        self.discrete = isinstance(space, spaces.Discrete)
        if isinstance(space, spaces.Discrete):
            self.outputs, self.start = int(space.n), int(space.start)
            return
        assert isinstance(space, spaces.Box)
        self.outputs = int(np.prod(space.shape))
        low, high = (torch.tensor(bound) for bound in _bounds(space))  # (A,)
        bounded = torch.isfinite(low) & torch.isfinite(high) & (high / 2 - low / 2 < UNBOUNDED)
        self._all_bounded = bool(bounded.all())
        self.is_unit = bool((low == -1).all() and (high == 1).all())
        # Constants of the environment, not of the policy: kept out of checkpoints.
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        self.register_buffer("bounded", bounded, persistent=False)
        self.register_buffer("center", torch.where(bounded, (low + high) / 2, 0.0), persistent=False)
        self.register_buffer("reach", torch.where(bounded, (high - low) / 2, 1.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convert outputs (n, outputs) to actions (n, A), or (n,) integers if discrete."""
        if self.discrete:
            return x.argmax(-1) + self.start
        y = self._squash(x)
        if self.is_unit:
            return y
        if not self._all_bounded:
            y = torch.where(self.bounded, y, x)
        return torch.addcmul(self.center, self.reach, y).clamp_(self.low, self.high)

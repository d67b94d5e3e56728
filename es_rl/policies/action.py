"""Convert a network's raw outputs to actions of the environment's space, as rows of numbers.

Shapes: n rows, K outputs of the network, A numbers of an action.

    space            outputs                     numbers of an action
    Box              one for each number         squashed to the bounds, float32
    Discrete         one for each choice         that with the largest output, (n,) whole numbers
    MultiDiscrete    one for each choice         of each component that with the largest output, whole numbers
    MultiBinary      one for each bit            1 where the output is above 0, whole numbers
    Dict, Tuple      those of all parts          those of all parts side by side, float64

So K is `gymnasium.spaces.flatdim(space)`. `es_rl.envs.spaces.to_action` makes an object of the space from a row.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

SQUASHES: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "clip": lambda x: torch.clamp(x, -1.0, 1.0)}


UNBOUNDED = 1e15  # bounds this far from their middle, such as the largest float, mean that there are none


def _bounds(space: spaces.Box) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the bounds of a space in float32. A bound that float32 cannot represent is rounded inwards."""
    with np.errstate(over="ignore"):  # a bound beyond float32's range becomes infinite: no bound
        low, high = (np.asarray(bound, np.float32).reshape(-1) for bound in (space.low, space.high))
    exact = [bound.reshape(-1) for bound in (space.low, space.high)]
    if space.dtype.kind in "iu":  # NumPy would compare large ones in float64, which cannot represent them either
        exact = [bound.astype(object) for bound in exact]
    outside = [np.isfinite(low) & (low < exact[0]), np.isfinite(high) & (high > exact[1])]
    outside = [np.asarray(which, np.bool_) for which in outside]
    return np.nextafter(low, high, out=low, where=outside[0]), np.nextafter(high, low, out=high, where=outside[1])


class ActionHead(nn.Module):
    """Box: squash outputs to [−1, 1] by tanh or clipping, then scale to [low, high]. Discrete: take the largest output.

    A Box dimension without finite bounds on both sides, or with bounds that mean none because they are so far apart,
    gets the raw output, clipped to the bound it has. Other spaces: see the table of this module.
    """

    low: Tensor
    high: Tensor
    bounded: Tensor
    center: Tensor
    reach: Tensor
    starts: Tensor

    def __init__(self, space: spaces.Space[Any], squash: str) -> None:
        super().__init__()
        self.squash, self._squash = squash, SQUASHES[squash]
        self.discrete = isinstance(space, spaces.Discrete)
        self.runs: list[tuple[int, int, int]] = []  # of a MultiDiscrete: outputs from … to, choices of each component
        self.parts = nn.ModuleList()  # of a Dict or a Tuple
        self.switches = isinstance(space, spaces.MultiBinary)
        match space:
            case spaces.Discrete():
                self.outputs, self.start, self.numbers = int(space.n), int(space.start), 1
            case spaces.MultiDiscrete():
                self._init_choices(space)
            case spaces.MultiBinary():
                self.outputs = self.numbers = int(np.prod(space.shape))
            case spaces.Dict() | spaces.Tuple():
                inside = space.values() if isinstance(space, spaces.Dict) else space
                parts = [ActionHead(part, squash) for part in inside]
                self.parts.extend(parts)
                self.outputs, self.numbers = sum(p.outputs for p in parts), sum(p.numbers for p in parts)
            case _:
                assert isinstance(space, spaces.Box)
                self._init_box(space)

    def _init_box(self, space: spaces.Box) -> None:
        self.outputs = self.numbers = int(np.prod(space.shape))
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

    def _init_choices(self, space: spaces.MultiDiscrete[Any]) -> None:
        self.outputs, self.numbers = 0, int(np.prod(space.shape))
        for choices, same in groupby(space.nvec.reshape(-1).tolist()):  # components of a run are computed at once
            first, self.outputs = self.outputs, self.outputs + choices * len(list(same))
            self.runs.append((first, self.outputs, choices))
        self.register_buffer("starts", torch.from_numpy(space.start.reshape(-1).astype(np.int64)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convert outputs (n, outputs) to actions (n, A), or (n,) integers if discrete."""
        if self.discrete:
            return x.argmax(-1) + self.start
        if self.runs:
            return torch.cat([run.argmax(-1) for run in self._runs(x)], -1) + self.starts
        if self.switches:
            return (x > 0).long()
        if len(self.parts):
            rows = [part(piece).double() for part, piece in self._pieces(x)]
            return torch.cat([row[..., None] if row.ndim < x.ndim else row for row in rows], -1)
        y = self._squash(x)
        if self.is_unit:
            return y
        if not self._all_bounded:
            y = torch.where(self.bounded, y, x)
        return torch.addcmul(self.center, self.reach, y).clamp_(self.low, self.high)

    def said(self, x: Tensor) -> Tensor:
        """Return what was done with outputs (n, outputs), as a network can take it: choices are one-hot. Same shape."""
        if self.discrete:
            return F.one_hot(x.argmax(-1), self.outputs).to(x.dtype)
        if self.runs:
            chosen = [F.one_hot(run.argmax(-1), run.shape[-1]).flatten(-2) for run in self._runs(x)]
            return torch.cat(chosen, -1).to(x.dtype)
        if self.switches:
            return (x > 0).to(x.dtype)
        if len(self.parts):
            return torch.cat([part.said(piece) for part, piece in self._pieces(x)], -1)
        return torch.tanh(x)

    def _runs(self, x: Tensor) -> list[Tensor]:
        """Return the outputs of each run of components, (n, components, choices)."""
        return [x[..., first:end].reshape(*x.shape[:-1], -1, choices) for first, end, choices in self.runs]

    def _pieces(self, x: Tensor) -> list[tuple[ActionHead, Tensor]]:
        """Return each part with its outputs."""
        parts = [part for part in self.parts if isinstance(part, ActionHead)]
        return list(zip(parts, torch.split(x, [part.outputs for part in parts], -1), strict=True))

"""Members as arrays: each parameter theta ± sigma*epsilon of many members, in full or as low-rank factors.

Shapes: N members, R rank; a matrix is (m, n).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from es_rl.noise import Factors, Perturbation, directions, matrix
from es_rl.population.precision import exactly

LOUD = 0.5  # the noise of `louder` members, as a share of theta


class LowRank(NamedTuple):
    """Members of a matrix: theta + a bᵀ."""

    theta: Tensor  # (m, n)
    a: Tensor  # (N, m, R), includes the sign, sigma and 1/√R
    b: Tensor  # (N, n, R)

    def select(self, index: Tensor) -> LowRank:
        return LowRank(self.theta, self.a[index], self.b[index])

    def to(self, device: torch.device) -> LowRank:
        return LowRank(self.theta.to(device), self.a.to(device), self.b.to(device))

    def transpose(self) -> LowRank:
        return LowRank(self.theta.T, self.b, self.a)

    def rows(self, index: Tensor) -> Tensor:
        """Return some rows of each member, (N, i, n)."""
        with exactly(self.theta):
            return torch.baddbmm(self.theta[index], self.a[:, index], self.b.transpose(1, 2))

    def explicit(self) -> Tensor:
        """Return the matrix of each member, (N, m, n)."""
        with exactly(self.theta):
            return torch.baddbmm(self.theta, self.a, self.b.transpose(1, 2))

    def matrix(self, i: int) -> Tensor:
        """Return the matrix of one member, (m, n)."""
        with exactly(self.theta):
            return self.theta + self.a[i] @ self.b[i].T


Members = Tensor | LowRank  # the members of one parameter: (N, *shape), or factors


def select(all_of: dict[str, Members], index: Tensor) -> dict[str, Members]:
    """Return the members at these positions, for each parameter."""
    return {name: m.select(index) if isinstance(m, LowRank) else m[index] for name, m in all_of.items()}


def members_of(
    module: nn.Module, members: Sequence[int], p: Perturbation, *, include_frozen: bool = True
) -> dict[str, Members]:
    """Return every member's parameters by name: theta ± sigma*epsilon. Each epsilon is drawn once per pair.

    Without `include_frozen`, frozen parameters are missing. A GPU is sent only low-rank noise and dense members.
    """
    device = next(module.parameters()).device
    theta = {name: value.detach() for name, value in module.named_parameters()}
    host: dict[str, Tensor] = {}  # theta, on the CPU where the noise is dense
    shapes = {name: tuple(value.shape) for name, value in theta.items()}
    rows: dict[int, list[int]] = {}
    for row, member in enumerate(members):
        rows.setdefault(member // 2, []).append(row)
    result: dict[str, Members] = {}
    for (_, at), epsilon in zip(rows.items(), directions(shapes, list(rows), p), strict=True):
        for name, value in epsilon.items():
            if name not in result:
                host[name] = theta[name] if isinstance(value, Factors) else theta[name].cpu()
                result[name] = _empty(host[name], value, len(members))
            for row in at:
                _write(result[name], row, host[name], value, p.sigma if members[row] % 2 == 0 else -p.sigma)
    frozen = {name: value.expand(len(members), *value.shape) for name, value in theta.items() if name not in result}
    found = result | (frozen if include_frozen else {})
    return {name: found[name].to(device) for name in theta if name in found}


def louder(members: Mapping[str, Members], theta: Mapping[str, Tensor]) -> dict[str, Members]:
    """Return the members with more noise, in proportion to theta, so that its effect is far above rounding errors."""
    signal = noise = 0.0
    for name, m in members.items():
        n = len(m.a) if isinstance(m, LowRank) else len(m)
        signal += n * float(theta[name].float().square().sum())
        noise += _squares(m, theta[name])
    factor = LOUD * math.sqrt(signal / noise) if noise > 0 else 1.0
    return {name: _scaled(m, theta[name], max(factor, 1.0)) for name, m in members.items()}


def _squares(m: Members, theta: Tensor) -> float:
    """Return the sum of squares of the noise of all members of a parameter."""
    if not isinstance(m, LowRank):
        return float((m - theta).float().square().sum())
    a, b = m.a.float(), m.b.float()
    with exactly(a):
        return float(((a.mT @ a) * (b.mT @ b)).sum())  # |a bᵀ|² = Σ (aᵀa)·(bᵀb)


def _scaled(m: Members, theta: Tensor, factor: float) -> Members:
    return LowRank(m.theta, m.a * factor, m.b) if isinstance(m, LowRank) else theta + (m - theta) * factor


def _empty(theta: Tensor, direction: NDArray[np.float32] | Factors, n: int) -> Members:
    if not isinstance(direction, Factors):
        return theta.new_empty((n, *theta.shape))
    size = matrix(tuple(theta.shape))
    assert size is not None
    a, b = (theta.new_empty((n, *side.shape), device="cpu") for side in direction)
    return LowRank(theta.reshape(size), a, b)


def _write(members: Members, row: int, theta: Tensor, direction: NDArray[np.float32] | Factors, step: float) -> None:
    if isinstance(direction, Factors):
        assert isinstance(members, LowRank)
        torch.mul(torch.from_numpy(direction.a), step, out=members.a[row])
        members.b[row] = torch.from_numpy(direction.b)
    else:
        assert isinstance(members, Tensor)
        torch.add(theta, torch.from_numpy(direction), alpha=step, out=members[row])

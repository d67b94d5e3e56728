"""The rules of convolutions: of each member with its own filters, all members at once.

Shapes: N members, k rows per member, R rank; C channels, m filters of a layer, G groups, P places of an image.

With low-rank noise the members share the convolution with theta, and a bᵀ is never formed: each member convolves its
rows with its own R filters b, and a spreads the result over the m filters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from es_rl.population.elementwise import on_channels
from es_rl.population.interception import Interception, NoRuleError, Rule
from es_rl.population.members import LowRank
from es_rl.population.precision import of_type

# Multiplications of a member's convolution from which on it is computed alone: one with groups is slow on a CPU.
ALONE = 1_000_000


def convolution(conv: Callable[..., Tensor]) -> Rule:
    """Return the rule of a convolution of torch."""

    def rule(
        m: Interception,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        m.refuse(input)
        w = m.members(weight)
        if isinstance(w, LowRank) and len(w.theta) != len(weight):  # one filter: its matrix has another shape
            w = w.explicit().reshape(-1, *weight.shape)
        if input.ndim != weight.ndim or not m.is_batch(input):
            raise NoRuleError("convolves rows that are not a number for each member")
        how = {"stride": stride, "padding": padding, "dilation": dilation}
        if w is None:
            y = conv(input, weight, None, groups=groups, **how)
        elif not isinstance(w, LowRank):
            y = _dense(m.n, conv, input, w, groups, how)
        else:
            y = conv(input, w.theta.reshape(weight.shape), None, groups=groups, **how)
            if sides := _sides(input, weight, how, groups):
                y = _add_by_shifts(m.n, y, input, weight, w, *sides)
            else:
                y = y + _low_rank(m.n, conv, input, weight, w, groups, how)
        return y if bias is None else of_type(y, on_channels(m, torch.add, m.follow(input, y), bias))

    return rule


def _stacked(n: int, input: Tensor) -> Tensor:
    """Return rows (N·k, C, …) with those of all members stacked as channels, (k, N·C, …)."""
    return input.reshape(n, len(input) // n, *input.shape[1:]).transpose(0, 1).flatten(1, 2)


def _dense(n: int, conv: Callable[..., Tensor], input: Tensor, w: Tensor, groups: int, how: dict[str, Any]) -> Tensor:
    """Convolve with filters of each member, (N, m, …): one after another if they are large, or as groups."""
    k = len(input) // n
    if input.is_cpu:
        first = conv(input[:k], w[0], None, groups=groups, **how)
        if first.numel() * w[0, 0].numel() >= ALONE:
            rest = zip(torch.split(input, k)[1:], w[1:], strict=True)
            parts = (conv(x, own, None, groups=groups, **how) for x, own in rest)
            return torch.cat([first, *parts])
    y = conv(_stacked(n, input), w.flatten(0, 1), None, groups=n * groups, **how)  # (k, N·m, …)
    return y.reshape(k, n, -1, *y.shape[2:]).transpose(0, 1).flatten(0, 1)


def _low_rank(
    n: int, conv: Callable[..., Tensor], input: Tensor, weight: Tensor, w: LowRank, groups: int, how: dict[str, Any]
) -> Tensor:
    """Return what low-rank noise adds, (N·k, m, …), by one convolution with G groups per member."""
    k, filters = len(input) // n, weight.shape[1:]
    own = w.b.transpose(1, 2).reshape(n, 1, -1, *filters)  # (N, 1, R, C/G, …)
    own = own.expand(-1, groups, *own.shape[2:]).flatten(0, 2)
    t = conv(_stacked(n, input), own, None, groups=n * groups, **how)
    t = t.reshape(k, n, groups, -1, *t.shape[2:])  # (k, N, G, R, …)
    a = w.a.reshape(n, groups, -1, w.a.shape[2])  # (N, G, m/G, R)
    return torch.einsum("kngr...,ngir->nkgi...", t, a).flatten(2, 3).flatten(0, 1)


def _sides(input: Tensor, weight: Tensor, how: dict[str, Any], groups: int) -> tuple[int, int, int] | None:
    """Return kernel, stride and padding of a square convolution of images on the CPU; None for any other."""
    if not input.is_cpu or input.ndim != 4 or groups != 1 or weight.shape[2] != weight.shape[3]:
        return None
    values = [set(value) if isinstance(value, (tuple, list)) else {value} for value in how.values()]
    if any(len(value) != 1 or not isinstance(next(iter(value)), int) for value in values):
        return None
    stride, padding, dilation = (value.pop() for value in values)
    return (weight.shape[2], stride, padding) if dilation == 1 else None


def _add_by_shifts(
    n: int, y: Tensor, input: Tensor, weight: Tensor, w: LowRank, kernel: int, stride: int, padding: int
) -> Tensor:
    """Add low-rank noise to y (N·k, m, H', W') in place, and return it.

    Blocks of stride × stride pixels become channels, so that the convolution is one product with each of q × q parts
    of the kernel, at all places, and a sum of shifted products. torch's convolution with groups takes longer on a CPU.
    """
    rows, channels = input.shape[:2]
    height, width = y.shape[2:]
    q = -(-kernel // stride)  # parts of the kernel on a side
    blocks = height + q - 1, width + q - 1
    x = _blocks(input, blocks, stride, padding).reshape(n, rows // n, channels * stride**2, -1)
    parts = F.pad(w.b.transpose(1, 2).reshape(n, -1, *weight.shape[1:]), (0, q * stride - kernel) * 2)
    parts = parts.reshape(n, -1, channels, q, stride, q, stride).permute(0, 3, 5, 1, 2, 4, 6)
    rank = parts.shape[3]
    z = torch.matmul(parts.reshape(n, 1, q * q * rank, channels * stride**2), x)  # (N, k, q·q·R, P)
    z = z.reshape(rows, q, q, rank, *blocks)
    t = z[:, 0, 0, :, :height, :width].contiguous()
    for i in range(q):
        for j in range(q):
            if i or j:
                t += z[:, i, j, :, i : i + height, j : j + width]
    a = w.a[:, None].expand(-1, rows // n, -1, -1).reshape(rows, -1, rank)  # (N·k, m, R)
    flat, t = y.contiguous().reshape(rows, y.shape[1], -1), t.reshape(rows, rank, -1)
    return (flat.addcmul_(a, t) if rank == 1 else flat.baddbmm_(of_type(flat, a), of_type(flat, t))).reshape(y.shape)


def _blocks(input: Tensor, blocks: tuple[int, int], stride: int, padding: int) -> Tensor:
    """Return images (n, C, H, W), padded or cut to so many blocks, as (n, C, S, S, blocks, blocks)."""
    height, width = (side * stride for side in blocks)
    missing = height - input.shape[2] - padding, width - input.shape[3] - padding
    x = F.pad(input, (padding, missing[1], padding, missing[0])) if padding or any(missing) else input
    return x.reshape(*x.shape[:2], blocks[0], stride, blocks[1], stride).permute(0, 1, 3, 5, 2, 4)

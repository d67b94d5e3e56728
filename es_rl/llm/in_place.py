"""Perturb and update a large model in slices of its parameters, without ever copying all of them.

Shapes: P directions; a parameter has n numbers. theta is float32 on the host. To make a model a member, theta +
sigma*epsilon is written over its weights, in its own type and on its own device. Noise is never subtracted again: the
next member is written from theta, so rounding errors do not add up in any type.

The directions are those of `es_rl.noise` (dense and low rank), drawn again from their streams. Evolution strategies at
scale (Qiu et al. 2025, arXiv 2509.24372) perturb and update language models in the same way, layer by layer from seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from es_rl.noise import Dense, Factors, Perturbation, factors, matrix, moves, parameter_stream

SLICE = 1 << 20  # numbers drawn at a time
Theta = Mapping[str, Tensor]  # float32, on the host, contiguous


@dataclass(frozen=True)
class Direction:
    """One epsilon and its weight."""

    index: int  # of its noise streams: the pair, or the member
    weight: float


def write(
    model: nn.Module, theta: Callable[[str], Tensor], p: Perturbation, direction: Direction | None = None
) -> None:
    """Overwrite a model's weights with `theta(name)`, or with that + weight·epsilon (dense noise only)."""
    with torch.no_grad():
        for position, (name, value) in enumerate(model.named_parameters()):
            mean, own = theta(name).reshape(-1), value.data.view(-1)
            if direction is None or not moves(name, tuple(value.shape), p):
                own.copy_(mean)
                continue
            for part, noise in _slices(len(mean), [parameter_stream(p, direction.index, position)]):
                own[part] = mean[part].add(torch.from_numpy(noise[0]), alpha=direction.weight).to(own)


def ascend(
    theta: Theta,
    directions: Sequence[Direction],
    p: Perturbation,
    *,
    lr: float,
    anchor: float = 0.0,
    start: Callable[[str], Tensor] | None = None,
) -> float:
    """Add lr Σ weight·epsilon to theta in place, then anchor·(start − theta). Return the norm of the change.

    With weights (u⁺ − u⁻)/(2 P sigma) of pairs, the sum is the estimate of `es_rl.noise`. `start(name)` returns the
    weights that theta is pulled to. Sums are float32.
    """
    square = 0.0
    for position, (name, value) in enumerate(theta.items()):
        if not moves(name, tuple(value.shape), p):
            continue
        flat = value.reshape(-1)  # a view
        begun = start(name).reshape(-1) if start is not None and anchor else None
        for part, update in _update(tuple(value.shape), position, directions, p):
            before = flat[part].clone()
            flat[part] += lr * update
            if begun is not None:
                flat[part] += anchor * (begun[part].float() - flat[part])
            square += float(torch.linalg.vector_norm(flat[part] - before, dtype=torch.float64)) ** 2
    return math.sqrt(square)


def _update(
    shape: tuple[int, ...], position: int, directions: Sequence[Direction], p: Perturbation
) -> Iterator[tuple[slice, Tensor]]:
    """Yield Σ weight·epsilon of one parameter, slice by slice."""
    size = matrix(shape) if p.kind == "lowrank" else None
    if size is None:
        streams = [parameter_stream(p, d.index, position) for d in directions]
        weights = np.array([d.weight for d in directions], np.float32)
        for part, noise in _slices(int(np.prod(shape)), streams):
            yield part, torch.from_numpy(np.einsum("p,pn->n", weights, noise))
        return
    drawn = [factors(p, d.index, position, shape) for d in directions]
    scale = [np.float32(d.weight) for d in directions]
    a = np.concatenate([f.a * w for f, w in zip(drawn, scale, strict=True) if isinstance(f, Factors)], axis=1)
    b = np.concatenate([f.b for f in drawn if isinstance(f, Factors)], axis=1)  # (m, P·R), (n, P·R)
    m, n = size
    rows = max(1, SLICE // n)
    for first in range(0, m, rows):
        block = a[first : first + rows] @ b.T
        yield slice(first * n, first * n + block.size), torch.from_numpy(block.reshape(-1))


def _slices(n: int, streams: Sequence[np.random.Generator]) -> Iterator[tuple[slice, Dense]]:
    """Yield the next normal numbers of each stream, (P, ≤ SLICE/P); the same numbers as if drawn at once."""
    rows = max(1, SLICE // len(streams))
    for first in range(0, n, rows):
        count = min(rows, n - first)
        yield slice(first, first + count), np.stack([s.standard_normal(count, dtype=np.float32) for s in streams])


def unchanged(theta: Theta, p: Perturbation, dtype: torch.dtype) -> float:
    """Return the share of weights that a perturbation leaves unchanged, because it is too small for the type.

    Estimated from the first `SLICE` numbers of each parameter. Matrices with low-rank noise do not count, because the
    noise is never added to them.
    """
    same = total = 0
    for position, (name, value) in enumerate(theta.items()):
        shape = tuple(value.shape)
        if moves(name, shape, p) and (p.kind == "dense" or matrix(shape) is None):
            mean = value.reshape(-1)[:SLICE]
            noise = parameter_stream(p, 0, position).standard_normal(len(mean), dtype=np.float32)
            moved = mean.add(torch.from_numpy(noise), alpha=p.sigma)
            same += int((moved.to(dtype) == mean.to(dtype)).sum())
            total += len(mean)
    return same / max(1, total)

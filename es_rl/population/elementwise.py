"""Functions that compute element by element, of batches and of parameters that stand for many members.

Shapes: N members, k rows per member.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from es_rl.population.interception import Interception, NoRuleError, Rule, of_each
from es_rl.population.members import LowRank


def of_two(func: Any) -> Rule:
    """Return the rule of a function that computes element by element."""

    def rule(m: Interception, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 2 and not kwargs and all(isinstance(x, Tensor) for x in args):
            return elementwise(m, func, *args)
        return m.alone(func, args, kwargs)

    return rule


def in_place(func: Any) -> Rule:
    """Return the rule of a function that changes its first argument; `func` computes the same without a change."""

    def rule(m: Interception, *args: Any, **kwargs: Any) -> Tensor:
        if len(args) != 2 or kwargs or m.members(args[0]) is not None or not m.is_batch(args[0]):
            raise NoRuleError("changes a parameter or a constant in place, or by a multiple")
        x: Tensor = args[0]
        return x.copy_(elementwise(m, func, *args))

    return rule


def elementwise(m: Interception, func: Any, x: Any, y: Any) -> Tensor:
    """Return func of two arrays, each of which may stand for members."""
    one, other = stack(m, x), stack(m, y)
    if one is not None and other is not None:
        return m.make(func(x, y), of_each(func, one, other))
    if other is None:
        x, y, other, func = y, x, one, _swapped(func)
    if other is None:
        plain: Tensor = func(x, y)  # neither stands for members
        return plain
    if m.is_batch(x):
        return pointwise(m, func, x, other)
    return m.make(func(x, y), of_each(lambda own: func(x, own), other))  # x is a constant


def stack(m: Interception, x: Any) -> Tensor | None:
    """Return the arrays (N, *shape) of the members that `x` stands for, or None."""
    own = m.members(x)
    return own.explicit().reshape(m.n, *x.shape) if isinstance(own, LowRank) else own


def _swapped(func: Any) -> Any:
    return lambda one, other: func(other, one)


def pointwise(m: Interception, func: Any, batch: Tensor, own: Tensor) -> Tensor:
    """Return func(batch (N·k, …), own (N, *shape)), each member's rows with its own array."""
    if own.ndim - 1 == batch.ndim and own.shape[1] == 1:
        own = own[:, 0]
    if own.ndim > batch.ndim or not m.is_batch(batch):
        raise NoRuleError("stretches a parameter over rows of different members")
    rows = batch.reshape(m.n, -1, *batch.shape[1:])
    if own.ndim == 1 and batch.is_floating_point():
        own = own.to(batch.dtype)  # a single number does not change the type of an array
    own = own.reshape(m.n, *([1] * (rows.ndim - own.ndim)), *own.shape[1:])
    y: Tensor = func(rows, own)
    return y.reshape(-1, *y.shape[2:])


def on_channels(m: Interception, func: Any, y: Tensor, p: Tensor) -> Tensor:
    """Return func of y (N·k, C, …) and a parameter (C,)."""
    rest = [1] * (y.ndim - 2)
    own = m.members(p)
    if own is None:
        plain: Tensor = func(y, p.reshape(-1, *rest))
        return plain
    assert isinstance(own, Tensor)
    return pointwise(m, func, y, own.reshape(m.n, -1, *rest))


ELEMENTWISE = {
    torch.add, torch.sub, torch.mul, torch.div, torch.pow, torch.maximum, torch.minimum,
    Tensor.add, Tensor.sub, Tensor.mul, Tensor.div, Tensor.pow,
    Tensor.__add__, Tensor.__radd__, Tensor.__sub__, Tensor.__rsub__, Tensor.__mul__, Tensor.__rmul__,
    Tensor.__truediv__, Tensor.__rtruediv__, Tensor.__pow__,
}  # fmt: skip
IN_PLACE = {
    Tensor.__iadd__: torch.add, Tensor.__isub__: torch.sub, Tensor.__imul__: torch.mul, Tensor.__itruediv__: torch.div,
    Tensor.add_: torch.add, Tensor.sub_: torch.sub, Tensor.mul_: torch.mul, Tensor.div_: torch.div,
}  # fmt: skip

"""The weights of many members in NumPy, and their products with one row for each.

Shapes: P places, n ≤ P running simulations, R rank; a matrix is (m, n).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from es_rl.rl.kernels.action import Array, Kernel


@dataclass(frozen=True)
class Factors:
    """A matrix of many members: theta + a b, low rank."""

    theta: Array  # (m, n), shared by all rows
    a: Array  # (P, m, R)
    b: Array  # (P, R, n)


Weight = Array | Factors  # an array is (P, …), or (1, …) shared by all rows
Weights = dict[str, Any]  # a layer's `Weight`s, by parameter name


def own_rows(weight: Weight) -> list[Array]:
    """Return the arrays that have a row for each place."""
    return [weight.a, weight.b] if isinstance(weight, Factors) else [weight]


def placed(weight: Weight, places: int) -> Weight:
    """Return a weight of the same kind with so many empty rows."""
    rows = [np.empty((places, *part.shape[1:]), part.dtype) for part in own_rows(weight)]
    return Factors(weight.theta, *rows) if isinstance(weight, Factors) else rows[0]


def affine(weight: Weight, bias: Any = None) -> Kernel:
    """Return the kernel x weightᵀ + bias. Its result may be overwritten."""
    product = _low_rank_product(weight) if isinstance(weight, Factors) else lambda x: np.matvec(weight[: len(x)], x)

    def kernel(x: Array) -> Array:
        y: Array = product(x)
        if bias is not None:
            y += bias[: len(x)]
        return y

    return kernel


def _low_rank_product(weight: Factors) -> Kernel:
    """Return the kernel x thetaᵀ + (x bᵀ) aᵀ."""
    theta, a, b = weight.theta, weight.a, weight.b
    if a.shape[-1] == 1:
        a, b = a[..., 0], b[:, 0]
        own: Kernel = lambda x: np.vecdot(x, b[: len(x)])[:, None] * a[: len(x)]  # noqa: E731
    else:
        own = lambda x: np.matvec(a[: len(x)], np.matvec(b[: len(x)], x))  # noqa: E731

    def kernel(x: Array) -> Array:
        y: Array = np.matvec(theta, x)
        y += own(x)
        return y

    return kernel

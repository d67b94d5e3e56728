"""Linear layers whose weights are rounded before they are used, as a chip with integer weights has them.

The parameter of the layer stays a float: it is what is perturbed and trained. Each output, one row of the matrix, has a
scale of its own, so an integer matrix and one float for each row are all that a deployed layer needs; biases stay
floats.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary

WEIGHTS = ("float", "int8", "ternary")  # what a policy's matrices are rounded to

INT8 = 127  # the largest integer of a symmetric int8 scale
TERNARY_THRESHOLD = 0.7  # of a row's mean magnitude, below which a weight is zero (Li & Liu 2016, equation 6)


def int8(w: Tensor) -> Tensor:
    """Round weights (…, m, n) to the nearest of 255 equally spaced values, up to the row's largest magnitude."""
    scale = (w.abs().amax(-1, keepdim=True) / INT8).clamp(min=torch.finfo(w.dtype).tiny)
    return (w / scale).round() * scale


def ternary(w: Tensor) -> Tensor:
    """Round weights (…, m, n) to −scale, 0 or scale of their row, as ternary weight networks do.

    Li & Liu 2016, arXiv 1605.04711, equations 5 and 6, for each row: weights above the threshold in magnitude become
    the mean of their magnitudes. The sums are taken in float64, where sums of float32 numbers are exact unless these
    differ by a factor of millions: so no bit depends on how many members are rounded together.
    """
    size = w.abs()
    kept = size > TERNARY_THRESHOLD * size.mean(-1, keepdim=True, dtype=torch.float64)
    total = (size * kept).sum(-1, keepdim=True, dtype=torch.float64)
    scale = (total / kept.sum(-1, keepdim=True).clamp(min=1)).to(w.dtype)
    return w.sign() * kept * scale


ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {"int8": int8, "ternary": ternary}


def rounded(w: Tensor, kind: str) -> Tensor:
    """Round weights (…, m, n) by one of `ROUNDINGS`.

    To torch's interceptors this is one function, so the members of a population are rounded all at once.
    """
    if has_torch_function_unary(w):
        result: Tensor = handle_torch_function(rounded, (w,), w, kind)
        return result
    return ROUNDINGS[kind](w)


class RoundedLinear(nn.Linear):
    """A linear layer that computes with rounded weights."""

    def __init__(self, inputs: int, outputs: int, kind: str) -> None:
        super().__init__(inputs, outputs)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, rounded(self.weight, self.kind), self.bias)


def linear(inputs: int, outputs: int, kind: str) -> nn.Linear:
    """The layer whose weights are of a kind: `float` or one of `ROUNDINGS`."""
    return nn.Linear(inputs, outputs) if kind == "float" else RoundedLinear(inputs, outputs, kind)

"""Linear layers that round their weights before use, for chips with integer weights.

The layer's parameter stays a float; it is what is perturbed and trained. Each row of the matrix (one output) has its
own scale, so a deployed layer needs only an integer matrix and one float per row. Biases stay floats.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary

INT8 = 127  # the largest integer of a symmetric int8 scale
TERNARY_THRESHOLD = 0.7  # times a row's mean magnitude: smaller weights become 0 (Li & Liu 2016, equation 6)


def int8(w: Tensor) -> Tensor:
    """Round weights (…, m, n) to the nearest of 255 equally spaced values, up to ± the row's largest magnitude."""
    scale = (w.abs().amax(-1, keepdim=True) / INT8).clamp(min=torch.finfo(w.dtype).tiny)
    return (w / scale).round() * scale


def ternary(w: Tensor) -> Tensor:
    """Round weights (…, m, n) to −scale, 0 or scale, with one scale per row, as ternary weight networks do.

    Li & Liu 2016, arXiv 1605.04711, equations 5 and 6: the scale is the mean magnitude of the row's weights above the
    threshold. Sums are in float64, where sums of float32 numbers are exact unless these differ by a factor of millions.
    So no bit depends on how many members are rounded together.
    """
    size = w.abs()
    kept = size > TERNARY_THRESHOLD * size.mean(-1, keepdim=True, dtype=torch.float64)
    total = (size * kept).sum(-1, keepdim=True, dtype=torch.float64)
    scale = (total / kept.sum(-1, keepdim=True).clamp(min=1)).to(w.dtype)
    return w.sign() * kept * scale


ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {"int8": int8, "ternary": ternary}


def rounded(w: Tensor, kind: str) -> Tensor:
    """Round weights (…, m, n) by one of `ROUNDINGS`.

    `es_rl.population` intercepts this as one function, so all members of a population are rounded at once.
    """
    if has_torch_function_unary(w):
        result: Tensor = handle_torch_function(rounded, (w,), w, kind)
        return result
    return ROUNDINGS[kind](w)


class RoundedLinear(nn.Linear):
    """A linear layer that rounds its weights in every forward pass."""

    def __init__(self, inputs: int, outputs: int, kind: str) -> None:
        super().__init__(inputs, outputs)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, rounded(self.weight, self.kind), self.bias)


def linear(inputs: int, outputs: int, kind: str) -> nn.Linear:
    """Return a linear layer with weights of a kind: `float` or one of `ROUNDINGS`."""
    return nn.Linear(inputs, outputs) if kind == "float" else RoundedLinear(inputs, outputs, kind)

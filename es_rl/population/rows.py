"""The rows of members: in the arguments of a module and in what it returns.

A batch has the same number of rows for each member; the rows of one member are contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_flatten

from es_rl.errors import EnvError

UNCHANGING = (
    int, float, complex, str, bytes, type(None), type, Enum, slice, range, np.generic, torch.dtype, torch.device,
)  # fmt: skip


def joined(parts: Sequence[Any], dim: int | None, name: str) -> Any:
    """Concatenate the members' outputs in the dimension of their rows; None if they have none.

    Raises `EnvError` if an output without rows differs between members.
    """
    first = parts[0]
    if isinstance(first, Tensor):
        if dim is not None and all(isinstance(part, Tensor) and part.shape == first.shape for part in parts):
            return torch.cat(list(parts), dim)
        if all(torch.equal(first, part) for part in parts):
            return first
    elif isinstance(first, (bool, int, float, str, type(None))) and all(first == part for part in parts):
        return first
    what = f"a tensor of shape {tuple(first.shape)}" if isinstance(first, Tensor) else f"a {type(first).__name__}"
    raise EnvError(
        f"{name} returns {what} for the rows of one member, which cannot be joined with those of the others. "
        f"Return tensors that have a dimension as long as the rows, or evaluate one member at a time."
    )


def growing(few: Any, many: Any, factor: int) -> int | None:
    """Return the dimension that is `factor` times as long in `many` as in `few`, if it is the only one that differs."""
    if not (isinstance(few, Tensor) and isinstance(many, Tensor)) or few.ndim != many.ndim:
        return None
    differing = [d for d in range(few.ndim) if few.shape[d] != many.shape[d]]
    return (
        differing[0] if len(differing) == 1 and many.shape[differing[0]] == factor * few.shape[differing[0]] else None
    )


def keeps(arguments: Any) -> bool:
    """Tell whether there is an argument, such as a cache, that a second call would change."""
    return any(not isinstance(x, (Tensor, *UNCHANGING)) for x in tree_flatten(arguments)[0])


def copy(x: Any) -> Any:
    """Copy a tensor, because a module may write into its inputs."""
    return x.clone() if isinstance(x, Tensor) else x


def tensors(out: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(out)[0] if isinstance(leaf, Tensor) and leaf.numel()]


def numbers(out: Any) -> list[Tensor]:
    return [leaf.double() for leaf in tensors(out)]


def alike(one: Tensor, base: Tensor, many: Tensor, tolerance: float) -> bool:
    """Tell whether a member's output alone (`one`) equals that among many, within a share of the effect of its noise.

    `base` is the output without noise. Rounding errors of float32 are allowed for.
    """
    finite = one.isfinite()
    if one.shape != many.shape or not torch.equal(one[~finite].nan_to_num(), many[~finite].nan_to_num()):
        return False
    if not finite.any():
        return True
    effect = float((one - base)[finite & base.isfinite()].abs().max()) if base.isfinite().any() else 0.0
    rounding = 1e-5 * float(one[finite].abs().max())
    return float((many - one)[finite].abs().max()) <= tolerance * effect + rounding  # False for NaN


def rows_of(arguments: Any) -> int:
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        raise EnvError("a perturbed module cannot be traced: the trace would hold theta and no members. Call it.")
    args = arguments[0]
    if args and isinstance(args[0], Tensor) and args[0].ndim:
        return len(args[0])  # the usual case
    if any(isinstance(x, PackedSequence) for x in (*args, *arguments[1].values())):
        raise EnvError("packed sequences cannot be divided among members. Give a tensor (rows, T, …).")
    for leaf in tree_flatten(arguments)[0]:
        if isinstance(leaf, Tensor) and leaf.ndim:
            return len(leaf)
    raise EnvError("a perturbed module needs a tensor whose first dimension is the rows.")

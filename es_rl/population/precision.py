"""Numbers of low precision: autocast, and modules in bfloat16 or half precision.

Under autocast, torch casts the arguments of products to a type of low precision. What members are made of must not be
rounded like this, or the perturbation is lost: `exactly`. A product of our own casts as torch's would: `as_autocast`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten


def exactly(x: Tensor) -> AbstractContextManager[Any]:
    """Switch autocast off for the device of x."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def as_autocast(*arrays: Any) -> tuple[Any, ...]:
    """Return the arrays in the type in which autocast, which is on, computes products. None stays None."""
    low = torch.get_autocast_dtype(arrays[0].device.type)
    return tuple(x if x is None or x.dtype == torch.float64 else x.to(low) for x in arrays)


def of_type(y: Tensor, x: Tensor) -> Tensor:
    """Return x in the type of y. Usually it is that of x: this costs less than Tensor.to then."""
    return x if x.dtype == y.dtype else x.to(y.dtype)


class Precision(TorchFunctionMode):
    """A torch mode that notes whether anything is computed in low precision."""

    def __init__(self) -> None:
        super().__init__()
        self.low = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in tree_flatten(result)[0]:
            if isinstance(x, Tensor) and not self.low:
                small = x.is_floating_point() and x.itemsize < 4
                self.low = small or torch.is_autocast_enabled(x.device.type)  # GRU computes in it, and returns float32
        return result

"""The action head in NumPy: see `es_rl.rl.numpy_policy`, which computes all layers of a policy so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from es_rl.policies.action import ActionHead

Array = NDArray[Any]  # (n, features)
Kernel = Callable[[Array], Array]  # may overwrite its argument, except the first kernel of a policy


def in_numpy(layer: nn.Module) -> Kernel:
    """Return the kernel of an `ActionHead`."""
    assert isinstance(layer, ActionHead)
    if layer.discrete:
        return lambda x: x.argmax(axis=-1) + layer.start
    if layer.runs:
        return _choices(layer)
    if layer.switches:
        return lambda x: (x > 0).astype(np.int64)
    if len(layer.parts):
        return _parts(layer)
    squash: Kernel = tanh if layer.squash == "tanh" else lambda x: clipped(x, -1.0, 1.0)
    if layer.is_unit:
        return squash
    center, reach, low, high, bounded = (
        getattr(layer, name).numpy() for name in ("center", "reach", "low", "high", "bounded")
    )

    def kernel(x: Array) -> Array:
        y = np.where(bounded, squash(x.copy()), x)
        y *= reach
        y += center
        return clipped(y, low, high)

    return kernel


def _choices(head: ActionHead) -> Kernel:
    """Return the kernel of a MultiDiscrete space: of each component, the choice with the largest output."""
    starts, runs = head.starts.numpy(), head.runs

    def kernel(x: Array) -> Array:
        chosen = [x[:, a:b].reshape(len(x), -1, choices).argmax(axis=-1) for a, b, choices in runs]
        y: Array = np.concatenate(chosen, axis=1)
        y += starts
        return y

    return kernel


def _parts(head: ActionHead) -> Kernel:
    """Return the kernel of a Dict or a Tuple: each part from its own outputs, side by side."""
    places, first, size = list[tuple[Kernel, slice, slice, int]](), 0, 0
    for part in head.parts:
        assert isinstance(part, ActionHead)
        outputs, numbers = slice(first, first + part.outputs), slice(size, size + part.numbers)
        places.append((in_numpy(part), outputs, numbers, part.numbers))
        first, size = outputs.stop, numbers.stop

    def kernel(x: Array) -> Array:
        y = np.empty((len(x), size))
        for of_part, outputs, numbers, width in places:
            piece = np.ascontiguousarray(x[:, outputs])  # as a part alone would have it, so that it rounds alike
            y[:, numbers] = of_part(piece).reshape(len(x), width)
        return y

    return kernel


def clipped(x: Array, low: Any, high: Any) -> Array:
    """Clip in place. `np.clip` takes three times as long for the few numbers of a step."""
    np.maximum(x, low, out=x)
    np.minimum(x, high, out=x)
    return x


def tanh(x: Array) -> Array:
    return np.tanh(x, out=x)

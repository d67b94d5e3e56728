"""Observations as rows of numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from es_rl.envs.spaces.parts import RULE, Path, Space, leaves, part_at, usable

_Write = Callable[[NDArray[np.float64], Any], None]  # (places of a part in a row of zeros, the part)


def size(space: Space, first: int | None = None) -> int:
    """Return how many numbers a flattened observation has, at most `first`. Parts without a fixed size are left out.

    Raises TypeError for a space without any part of a fixed size, such as Text or Graph.
    """
    numbers = Flattener(space).size
    return numbers if first is None else min(first, numbers)


class Flattener:
    """Flattens observations of a space to vectors, as `gymnasium.spaces.flatten` does; discrete ones become one-hot.

    The parts of a Dict or a Tuple are found once, because this runs at every step.
    """

    def __init__(self, space: Space) -> None:
        known, _ = usable(space)
        if known is None:
            raise TypeError(f"is not supported; {RULE}")
        self._parts: list[tuple[Path, _Write, int, int]] = []  # path, how to write it, first and last place
        self.size = 0
        for path, part in leaves(known):
            end = self.size + spaces.flatdim(part)
            self._parts.append((path, writer(part, path), self.size, end))
            self.size = end
        self._vector = known if isinstance(known, spaces.Box) else None

    def __call__(self, obs: Any) -> NDArray[np.float64]:
        """Return a vector. Raises ValueError for a part of a wrong shape, KeyError for one that is missing."""
        if self._vector is not None:  # the usual case
            return of_shape(np.asarray(obs, np.float64), self._vector.shape, ()).flatten()  # a copy
        vector = np.zeros(self.size)
        for path, write, first, end in self._parts:
            write(vector[first:end], part_at(obs, path))
        return vector


def writer(space: Space, path: Path) -> _Write:
    """Return the function that writes a part of an observation into a row of zeros."""
    match space:
        case spaces.Discrete():
            return _choice(space)
        case spaces.MultiDiscrete():
            return _choices(space, path)
    return _numbers(space, path)


def _choice(space: spaces.Discrete[Any]) -> _Write:
    start, n = int(space.start), int(space.n)

    def write(row: NDArray[np.float64], part: Any) -> None:
        if not 0 <= (value := int(part) - start) < n or part != int(part):
            raise ValueError(f"the observation has {part}, which is not in {space}")
        row[value] = 1.0

    return write


def _choices(space: spaces.MultiDiscrete[Any], path: Path) -> _Write:
    start, counts = space.start.astype(np.int64), space.nvec.astype(np.int64)  # small types might wrap around
    places, end = np.cumsum(counts.reshape(-1)) - counts.reshape(-1), start + counts

    def write(row: NDArray[np.float64], part: Any) -> None:
        values = of_shape(np.asarray(part), space.shape, path)
        if not ((values >= start) & (values < end) & (values == np.rint(values))).all():
            raise ValueError(f"the observation has {part}, which is not in {space}")
        row[places + (values - start).reshape(-1).astype(np.int64)] = 1.0

    return write


def _numbers(space: Space, path: Path) -> _Write:
    # Whole numbers are not cast: they might wrap around.
    kind, rounds = None if path else np.float64, path and np.dtype(space.dtype).kind == "f"

    def write(row: NDArray[np.float64], part: Any) -> None:
        values = of_shape(np.asarray(part, kind), space.shape, path)
        if values.dtype.kind == "c":
            raise ValueError(f"the observation has complex numbers, which are not in {space}")
        row[:] = (values.astype(space.dtype, copy=False) if rounds else values).reshape(-1)

    return write


def of_shape(values: NDArray[Any], shape: tuple[int, ...] | None, path: tuple[Any, ...]) -> NDArray[Any]:
    """Return the values of a part if they have this shape. Raises ValueError."""
    if values.shape != shape:
        what = f"the observation's part {'.'.join(map(str, path))}" if path else "the observation"
        raise ValueError(f"{what} has shape {values.shape}, but its space has {shape}")
    return values


def flatten(space: Space, obs: Any) -> NDArray[np.float64]:
    """Flatten one observation to a vector. Raises ValueError for a wrong shape."""
    return Flattener(space)(obs)

"""Observations of a pool, one array for each part of the space: all of them as rows, or one as Gymnasium has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from es_rl.envs.spaces import Floats, Space, leaves, shape_of, size
from es_rl.envs.spaces.parts import is_picture, part_at

_Write = Callable[[Any, Any], None]  # (places of a part in rows of zeros, the part's array)


class Rows:
    """Writes n observations into rows (n, *row), each as `es_rl.envs.spaces.Packer` writes it.

    A number that is not in its space of choices makes the numbers of its row NaN.
    """

    def __init__(self, space: Space, first: int | None = None) -> None:
        self.shape = shape_of(space, first)
        self._numbers, self._images = list[tuple[Any, _Write, int, int]](), list[tuple[Any, int, int]]()
        images, self._size = iter(self.shape.images), 0  # numbers, before `first` chooses from them
        for path, part in leaves(space):
            if is_picture(part):
                image = next(images)
                self._images.append((path, image.first, image.first + image.bytes))
                continue
            end = self._size + size(part)
            write = _choice(part) if isinstance(part, spaces.Discrete) else _plain
            self._numbers.append((path, write, self._size, end))
            self._size = end

    def nothing(self, n: int) -> Floats:
        """Return rows for n simulations without an observation."""
        return np.full((n, *self.shape.row), self.shape.nothing, self.shape.dtype)

    def __call__(self, obs: Any, n: int) -> Floats:
        shape = self.shape
        if shape.alone:
            return np.asarray(part_at(obs, self._images[0][0])).reshape(n, *shape.row)
        numbers = np.zeros((n, self._size))
        for path, write, first, end in self._numbers:
            write(numbers[:, first:end], part_at(obs, path))
        if not shape.images:
            return numbers[:, : shape.numbers]
        rows = np.zeros((n, *shape.row), shape.dtype)
        shape.numbers_of(rows)[...] = numbers
        for path, first, end in self._images:
            _plain(rows[:, first:end], part_at(obs, path))
        return rows


def _plain(rows: Any, part: Any) -> None:
    rows[:] = np.asarray(part).reshape(rows.shape)


def _choice(space: spaces.Discrete[Any]) -> _Write:
    start, n = int(space.start), int(space.n)

    def write(rows: Floats, part: Any) -> None:
        chosen = np.asarray(part).reshape(len(rows)).astype(np.int64) - start
        inside = (chosen >= 0) & (chosen < n)
        rows[np.flatnonzero(inside), chosen[inside]] = 1.0
        rows[~inside] = np.nan

    return write


def one(space: Space, obs: Any) -> Any:
    """Return the observation of a pool of one simulation as an object of the space."""
    if isinstance(space, spaces.Dict):
        return {name: one(part, obs[name]) for name, part in space.items()}
    value = np.asarray(obs)[0]
    if isinstance(space, spaces.Discrete):
        return np.asarray(value).reshape(()).astype(space.dtype)[()]
    return np.array(value, space.dtype).reshape(space.shape or ())

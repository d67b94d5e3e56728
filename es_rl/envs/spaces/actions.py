"""Actions as rows of numbers, and the objects that environments take, made from them.

    space            a row of A numbers                              type
    Box              the numbers in order                            float32
    Discrete         the choice itself, no row: () in place of (A,)  int64
    MultiDiscrete    the choices in order                            int64
    MultiBinary      zeros and ones in order                         int64
    Dict, Tuple      the rows of the parts, side by side             float64

A policy's `ActionHead` gives such rows. Numbers of a Box of whole numbers are rounded and those of a Box of bool are
compared with 0.5 only when the object is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from es_rl.envs.spaces.parts import Space, leaves, parts_of

Maker = Callable[[Any], Any]  # a row → an action


def row_type(space: Space) -> tuple[tuple[int, ...], str]:
    """Return the shape and the type of a policy's action as numbers."""
    match space:
        case spaces.Discrete():
            return (), "i8"
        case spaces.Box():
            return (_length(space),), "f4"
        case spaces.MultiDiscrete() | spaces.MultiBinary():
            return (_length(space),), "i8"
    return (sum(_length(part) for _, part in leaves(space)),), "f8"


def row_of(space: Space, action: Any) -> NDArray[Any]:
    """Return an action of the space as numbers, (A,) or () for Discrete. Numbers keep their type if all have one."""
    if isinstance(space, spaces.Discrete):
        return np.asarray(action)
    if not isinstance(space, (spaces.Dict, spaces.Tuple)):
        return np.asarray(action).reshape(-1)
    rows = [np.zeros(0)]
    for path, _ in leaves(space):
        part = action
        for name in path:
            part = part[name]
        rows.append(np.asarray(part, np.float64).reshape(-1))
    return np.concatenate(rows)


def to_action(space: Space, row: Any) -> Any:
    """Convert the output of a policy, (A,) numbers or an integer, to an action of the space, of its type."""
    return action_maker(space)(row)


def action_maker(space: Space) -> Maker:
    """Return the function that does the same for this space, faster: it runs at every step."""
    match space:
        case spaces.Box():
            return _box(space)
        case spaces.Discrete():
            return space.dtype.type
        case spaces.MultiDiscrete() | spaces.MultiBinary():
            shape, dtype = space.shape, space.dtype
            return lambda row: np.asarray(row, dtype).reshape(shape)
        case spaces.Dict():
            named = _places(space)
            return lambda row: {name: make(row[place]) for name, make, place in named}
        case spaces.Tuple():
            parts = _places(space)
            return lambda row: tuple(make(row[place]) for _, make, place in parts)
    raise TypeError(f"{space}: not supported")


def _box(space: spaces.Box) -> Maker:
    shape, dtype = space.shape, space.dtype
    if dtype.kind in "iu":
        return lambda row: np.asarray(np.rint(row), dtype).reshape(shape)
    if dtype.kind == "b":
        return lambda row: np.asarray(np.asarray(row) >= 0.5, dtype).reshape(shape)
    return lambda row: np.asarray(row, dtype).reshape(shape)


def _places(space: spaces.Dict | spaces.Tuple[Any]) -> list[tuple[Any, Maker, int | slice]]:
    """Return for each part its name, its maker, and where its numbers stand in a row."""
    found, first = list[tuple[Any, Maker, int | slice]](), 0
    for name, part in parts_of(space):
        length = sum(_length(leaf) for _, leaf in leaves(part))
        alone = isinstance(part, spaces.Discrete)
        found.append((name, action_maker(part), first if alone else slice(first, first + length)))
        first += length
    return found


def _length(space: Space) -> int:
    """Return how many numbers an action of a space without parts has."""
    assert space.shape is not None
    return int(np.prod(space.shape))

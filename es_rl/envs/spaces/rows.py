"""Observations as rows of an array, with images as bytes: see `es_rl.observations`."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from es_rl.envs.spaces.observations import Flattener, of_shape, writer
from es_rl.envs.spaces.parts import RULE, Path, Space, is_picture, leaves, part_at, usable
from es_rl.observations import ObservationShape, beside

Row = NDArray[Any]


def shape_of(space: Space, first: int | None = None) -> ObservationShape:
    """Return what an observation of a space is in arrays; `first` keeps only this many numbers, the first ones.

    Raises TypeError for a space without any part of a fixed size, and `ConfigError` for `first` with images.
    """
    known, _ = usable(space)
    if known is None:
        raise TypeError(f"is not supported; {RULE}")
    parts = [part for _, part in leaves(known)]
    shapes = [part.shape for part in parts if isinstance(part, spaces.Box) and is_picture(part)]
    numbers = sum(int(spaces.flatdim(part)) for part in parts if not is_picture(part))
    return beside(numbers, shapes).limited(first)


class Packer:
    """Makes rows of observations of a space. Numbers are in the order of the parts, and so are images."""

    def __init__(self, space: Space, first: int | None = None) -> None:
        self.shape = shape_of(space, first)
        self.flatten = None if self.shape.images else Flattener(space)
        self._images: list[tuple[Path, tuple[int, ...], slice]] = []  # path, shape, place in a row
        self._numbers: list[tuple[Path, Any, slice]] = []  # path, how to write it, place among the numbers
        known, _ = usable(space)
        images, end = iter(self.shape.images), 0
        for path, part in leaves(known if known is not None else space):
            if is_picture(part):
                image = next(images)
                self._images.append((path, image.shape, slice(image.first, image.first + image.bytes)))
            else:
                place = slice(end, end := end + int(spaces.flatdim(part)))
                self._numbers.append((path, writer(part, path), place))

    def __call__(self, obs: Any) -> Row:
        """Return a row. Raises ValueError for a part of a wrong shape or type, KeyError for one that is missing."""
        if self.flatten is not None:
            return self.flatten(obs)[: self.shape.numbers]
        row = np.zeros(self.shape.row, self.shape.dtype)
        self.write(row, obs)
        return row

    def write(self, row: Row, obs: Any) -> None:
        """Write an observation into a row of an array."""
        if self.flatten is not None:
            row[:] = self.flatten(obs)[: self.shape.numbers]
            return
        if self.shape.alone:
            ((path, shape, _),) = self._images
            row[...] = _image(part_at(obs, path), shape, path)
            return
        numbers = self.shape.numbers_of(row[None])[0]
        numbers[:] = 0.0
        for path, write, place in self._numbers:
            write(numbers[place], part_at(obs, path))
        for path, shape, place in self._images:
            row[place] = _image(part_at(obs, path), shape, path).reshape(-1)


def _image(part: Any, shape: tuple[int, ...], path: Path) -> NDArray[np.uint8]:
    """Return an image as bytes. Raises ValueError for another shape, and for values that are no bytes."""
    values = of_shape(np.asarray(part), shape, path)
    if values.dtype == np.uint8:
        return values
    bytes_ = values.astype(np.uint8)
    if not np.array_equal(bytes_, values):
        raise ValueError(f"the observation has an image of {values.dtype}, whose values are not whole from 0 to 255")
    return bytes_

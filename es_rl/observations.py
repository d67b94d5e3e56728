"""How an observation is kept in arrays: numbers as float64, images as the bytes that they are.

    an environment gives     a row of the array of n observations
    numbers only             O float64: those of all parts, side by side
    one image only           the image: (H, W, 3), (4, 84, 84), …, uint8
    images and numbers       B uint8: the bytes of the numbers as float64, then the images, then zeros up to a multiple
                             of eight bytes

So one array holds the observations of all simulations, whatever they are, and any code that copies rows can pass them
on. `ObservationShape` tells what a row is; a policy is made for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl.errors import ConfigError

WHITE = 255  # the brightest value of an image
LEAST_SIDE = 8  # pixels: smaller ones hold codes rather than a picture, such as the kinds of objects on a grid
_WORD = 8  # bytes of a float64


@dataclass(frozen=True)
class Image:
    """An image of an observation, or a stack of them: uint8 from 0 to 255."""

    shape: tuple[int, ...]  # as the environment gives it: (H, W), with channels before or behind, of k images
    first: int = 0  # place of its first byte in a row of bytes

    @property
    def bytes(self) -> int:
        """Return the number of its bytes, and of its numbers."""
        return math.prod(self.shape)

    @property
    def channels_last(self) -> bool:
        """Tell whether the last axis is that of colours: it is shorter than the first one of an image."""
        return len(self.shape) > 2 and self.shape[-1] < self.shape[-3]

    @property
    def planes(self) -> tuple[int, int, int]:
        """Return the number of channels, those of all images of a stack, and the height and the width."""
        height, width = self.shape[-3:-1] if self.channels_last else self.shape[-2:]
        return self.bytes // (height * width), height, width


@dataclass(frozen=True)
class ObservationShape:
    """What one observation is in arrays."""

    numbers: int  # of vectors and choices, side by side
    images: tuple[Image, ...] = ()

    @property
    def size(self) -> int:
        """Return how many numbers all parts have, those of images counted."""
        return self.numbers + sum(image.bytes for image in self.images)

    @property
    def alone(self) -> bool:
        """Tell whether it is one image and nothing else."""
        return len(self.images) == 1 and not self.numbers

    @property
    def row(self) -> tuple[int, ...]:
        """Return the shape of a row."""
        if not self.images:
            return (self.numbers,)
        if self.alone:
            return self.images[0].shape
        end = self.images[-1].first + self.images[-1].bytes
        return (-(-end // _WORD) * _WORD,)

    @property
    def dtype(self) -> str:
        """Return the type of a row's elements."""
        return "u1" if self.images else "f8"

    @property
    def nothing(self) -> float:
        """Return what fills a row where there is no observation."""
        return 0 if self.images else math.nan

    def numbers_of(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Return the numbers (n, numbers) of rows (n, …), without their images. They share memory."""
        if not self.images:
            return rows
        if not self.numbers:
            return np.empty((len(rows), 0))
        numbers: NDArray[np.float64] = self.words_of(rows).view(np.float64)
        return numbers

    def words_of(self, rows: Any) -> Any:
        """Return the bytes of the numbers, (n, 8·numbers), of rows of bytes: an array of NumPy or a tensor."""
        return rows[:, : _WORD * self.numbers]

    def images_of(self, rows: Any) -> list[Any]:
        """Return each image, (n, *shape), of rows (n, …), arrays of NumPy or tensors. They share memory."""
        if self.alone:
            return [rows]
        return [rows[:, i.first : i.first + i.bytes].reshape(-1, *i.shape) for i in self.images]

    def limited(self, first: int | None) -> ObservationShape:
        """Return the shape of the first numbers, this many; None: all. Raises `ConfigError` if there are images."""
        if first is None:
            return self
        if self.images:
            raise ConfigError(
                f"obs_first={first}: chooses from observations that are one row of numbers, and these have an image. "
                f"Leave it out; pixels.crop and pixels.size choose from images."
            )
        return ObservationShape(min(first, self.numbers))


def beside(numbers: int, shapes: list[tuple[int, ...]]) -> ObservationShape:
    """Return the shape of observations with so many numbers and with images of these shapes."""
    images, first = list[Image](), _WORD * numbers
    for shape in shapes:
        images.append(Image(tuple(shape), first))
        first += images[-1].bytes
    return ObservationShape(numbers, tuple(images))


def is_image(low: NDArray[Any], high: NDArray[Any]) -> bool:
    """Tell from the bounds of a Box whether it is an image: bytes from 0 to 255, of at least two axes of pixels."""
    if low.dtype != np.uint8 or not 2 <= low.ndim <= 4 or min(Image(low.shape).planes[1:]) < LEAST_SIDE:
        return False
    return bool((low == 0).all() and (high == WHITE).all())

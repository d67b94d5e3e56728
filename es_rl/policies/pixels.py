"""The first part of a policy whose observations have images: images divided by 255, numbers normalised.

Shapes: n rows, V numbers beside images, O numbers in all, C channels of an image with height H and width W.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from es_rl.observations import WHITE, Image, ObservationShape
from es_rl.policies.normalizer import Normalizer


class Pixels(Normalizer):
    """Takes rows of bytes (see `es_rl.observations`) apart. The statistics are those of the numbers."""

    def __init__(self, shape: ObservationShape, clip: float, *, normalize: bool, as_image: bool = False) -> None:
        """Let calls return one vector of all numbers, or, with `as_image`, the only image as it is."""
        super().__init__(shape.numbers, clip if normalize else math.inf)
        self.shape, self.as_image = shape, as_image
        self.gathers = normalize and shape.numbers > 0

    def forward(self, obs: Tensor) -> Tensor:
        """Return (n, O) float32 of rows (n, …): the numbers, then those of all images. Or (n, C, H, W)."""
        if self.as_image:
            return self.images(obs)[0]
        flat = [image.flatten(1) for image in self.images(obs)]
        return torch.cat([self.numbers(obs), *flat], 1) if self.shape.numbers or len(flat) > 1 else flat[0]

    def numbers(self, obs: Tensor) -> Tensor:
        """Return the normalised numbers of rows, (n, V) float32."""
        if not self.shape.numbers:
            return obs.new_zeros((obs.shape[0], 0), dtype=torch.float32)
        return super().forward(self.shape.words_of(obs).view(torch.float64))

    def images(self, obs: Tensor) -> list[Tensor]:
        """Return the images of rows, (n, C, H, W) float32 from 0 to 1 each."""
        found = zip(self.shape.images_of(obs), self.shape.images, strict=True)
        return [_planes(x, image).to(torch.float32).mul(1 / WHITE) for x, image in found]


def _planes(x: Tensor, image: Image) -> Tensor:
    """Return images (n, *shape) as (n, C, H, W)."""
    if image.channels_last:
        x = x.movedim(-1, -3)
    return x.flatten(1, -3) if x.ndim > 3 else x[:, None]

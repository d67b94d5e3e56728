"""Observations for any policy of the registry: six numbers, or a small picture for one that must see one."""

import torch

from es_rl.observations import Image, ObservationShape

NUMBERS, PICTURE = ObservationShape(6), ObservationShape(0, (Image((9, 10, 3)),))
SMALL = {"cnn": ["cnn.channels=[4]", "cnn.kernels=[4]", "cnn.strides=[3]", "cnn.width=8"]}  # keys that fit the picture


def shape_for(name):
    return PICTURE if name == "cnn" else NUMBERS


def observations(name, n, *, spread=1.0, seed=0):
    """Return n observations, a tensor: normal numbers, or bytes."""
    generator = torch.Generator().manual_seed(seed)
    if name == "cnn":
        return torch.randint(0, 256, (n, *PICTURE.row), generator=generator).to(torch.uint8)
    return torch.randn(n, 6, generator=generator, dtype=torch.float64) * spread

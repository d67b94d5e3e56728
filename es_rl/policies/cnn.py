"""The convolutional policy: a stack of convolutions over images, numbers beside them joined after it, one hidden layer.

The kind of network of Mnih et al. 2013 (arXiv 1312.5602, section 4.1): no padding, ReLU after each convolution. With
channels [32, 64, 64], kernels [8, 4, 3], strides [4, 2, 1] and width 512 it is that of Mnih et al. 2015 (doi
10.1038/nature14236). Several images of an observation are seen as channels of one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from es_rl.errors import ConfigError
from es_rl.observations import ObservationShape
from es_rl.policies.action import ActionHead
from es_rl.policies.config import CnnConfig
from es_rl.policies.pixels import Pixels

OUTPUT_GAIN = 0.01  # of the initial output weights: the first actions are near the middle of the action space
RELU_GAIN = 2.0**0.5  # of the layers before a ReLU


class CnnPolicy(nn.Module):
    """normalizer → convolutions → hidden layer, with numbers beside the images → output layer → head."""

    def __init__(self, normalizer: Pixels, head: ActionHead, config: CnnConfig) -> None:
        super().__init__()
        self.normalizer = normalizer
        size = features(config, normalizer.shape)
        layers, channels = list[nn.Module](), planes(normalizer.shape)[0]
        for filters, kernel, stride in zip(config.channels, config.kernels, config.strides, strict=True):
            layers += [nn.Conv2d(channels, filters, kernel, stride), nn.ReLU()]
            channels = filters
        self.convolutions = nn.Sequential(*layers)
        self.hidden = nn.Linear(size, config.width)
        self.out = nn.Linear(config.width, head.outputs)
        self.head = head

    def forward(self, obs: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return actions for rows of observations (n, …)."""
        images = self.normalizer.images(obs)
        x = self.convolutions(images[0] if len(images) == 1 else torch.cat(images, 1)).flatten(1)
        if self.normalizer.shape.numbers:
            x = torch.cat([x, self.normalizer.numbers(obs)], 1)
        return self.head(self.out(torch.relu(self.hidden(x)))), state


def planes(shape: ObservationShape) -> tuple[int, int, int]:
    """Return the channels of all images, their height and their width. Raises `ConfigError` if there is no such."""
    if not shape.images:
        raise ConfigError(
            f"policy=cnn: needs observations with an image, and these are {shape.numbers} numbers. Give policy=mlp."
        )
    all_planes = [image.planes for image in shape.images]
    if len({sides[1:] for sides in all_planes}) > 1:
        sizes = ", ".join(f"{height} × {width}" for _, height, width in all_planes)
        raise ConfigError(f"policy=cnn: needs images of one size, and these are {sizes}. Give pixels.size.")
    return sum(channels for channels, _, _ in all_planes), *all_planes[0][1:]


def features(config: CnnConfig, shape: ObservationShape) -> int:
    """Return how many numbers the hidden layer takes. Raises `ConfigError` for layers that do not fit the images."""
    lists = {"channels": config.channels, "kernels": config.kernels, "strides": config.strides}
    if len({len(values) for values in lists.values()}) > 1:
        told = ", ".join(f"cnn.{name}={values}" for name, values in lists.items())
        raise ConfigError(f"{told}: must have one number for each convolution, so be of one length.")
    channels, *sides = planes(shape)
    for i, (kernel, stride) in enumerate(zip(config.kernels, config.strides, strict=True)):
        if kernel > min(sides):
            raise ConfigError(
                f"cnn.kernels={config.kernels}: convolution {i + 1} gets images of {sides[0]} × {sides[1]} pixels, "
                f"which are smaller than {kernel}. Give smaller cnn.kernels or cnn.strides, or fewer of them."
            )
        sides = [(side - kernel) // stride + 1 for side in sides]
    return (config.channels[-1] if config.channels else channels) * sides[0] * sides[1] + shape.numbers


def build(config: CnnConfig, inputs: int, normalizer: nn.Module, head: ActionHead) -> nn.Module:
    """Return the policy. Raises `ConfigError` for observations without images, or layers that do not fit them."""
    if not isinstance(normalizer, Pixels):
        planes(ObservationShape(inputs))  # refuses them
        raise TypeError("observations with images have a Pixels")
    policy = CnnPolicy(normalizer, head, config)
    for layer in policy.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.orthogonal_(layer.weight, OUTPUT_GAIN if layer is policy.out else RELU_GAIN)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return policy

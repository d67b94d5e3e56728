"""Layers without memory in NumPy. To add a kind, write one function and one line in `KERNELS`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import nn

from es_rl.observations import WHITE
from es_rl.policies.action import ActionHead
from es_rl.policies.normalizer import Normalizer, Unnormalized
from es_rl.policies.pixels import Pixels
from es_rl.policies.rounding import RoundedLinear
from es_rl.rl.kernels.action import Array, Kernel, clipped, in_numpy, tanh
from es_rl.rl.kernels.weights import Weights, affine


def _linear(layer: nn.Module, w: Weights) -> Kernel:
    return affine(w["weight"], w.get("bias"))


def _layer_norm(layer: nn.Module, w: Weights) -> Kernel:
    assert isinstance(layer, nn.LayerNorm)
    size, eps, gain, bias = layer.normalized_shape[0], layer.eps, w["weight"], w.get("bias")

    def kernel(x: Array) -> Array:
        x = x - np.add.reduce(x, axis=-1, keepdims=True) / size
        variance = np.add.reduce(np.square(x), axis=-1, keepdims=True) / size
        x *= gain[: len(x)] / np.sqrt(variance + eps)
        if bias is not None:
            x += bias[: len(x)]
        return x

    return kernel


def _normalizer(layer: nn.Module, w: Weights) -> Kernel:
    assert isinstance(layer, Normalizer)
    scale, shift, clip, inputs = layer.scale.numpy(), layer.shift.numpy(), layer.clip, layer.inputs

    def kernel(obs: Array) -> Array:
        x = obs[..., :inputs] * scale
        x += shift
        return clipped(x, -clip, clip).astype(np.float32)

    return kernel


def _pixels(layer: nn.Module, w: Weights) -> Kernel:
    assert isinstance(layer, Pixels)
    shape, normalize = layer.shape, _normalizer(layer, w)

    def kernel(obs: Array) -> Array:
        x = np.empty((len(obs), shape.size), np.float32)
        x[:, : shape.numbers] = normalize(shape.numbers_of(obs))
        first = shape.numbers
        for seen, image in zip(shape.images_of(obs), shape.images, strict=True):
            seen = np.moveaxis(seen, -1, -3) if image.channels_last else seen
            place = x[:, first : first + image.bytes].reshape(seen.shape)  # shares memory: only one axis is split
            np.multiply(seen, np.float32(1 / WHITE), out=place)
            first += image.bytes
        return x

    return kernel


def _elu(layer: nn.Module, w: Weights) -> Kernel:
    assert isinstance(layer, nn.ELU)
    alpha = np.float32(layer.alpha)
    return lambda x: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _leaky_relu(layer: nn.Module, w: Weights) -> Kernel:
    assert isinstance(layer, nn.LeakyReLU)
    slope = np.float32(layer.negative_slope)
    return lambda x: np.where(x > 0, x, slope * x)


def _gelu(layer: nn.Module, w: Weights) -> Kernel:
    from scipy.special import erf  # slow to import, and few policies need it

    half, root = np.float32(0.5), np.float32(0.5**0.5)
    return lambda x: half * x * (1 + erf(root * x))


def _silu(layer: nn.Module, w: Weights) -> Kernel:
    """Return the kernel x/(1 + exp(−x)), written with tanh so that it does not overflow."""
    half = np.float32(0.5)
    return lambda x: half * x * (1 + np.tanh(half * x))


# For each kind of layer: (layer, weights of its rows) → kernel.
KERNELS: dict[type[nn.Module], Callable[[nn.Module, Weights], Kernel]] = {
    Normalizer: _normalizer,
    Pixels: _pixels,
    Unnormalized: lambda layer, w: lambda obs: obs[..., : layer.inputs].astype(np.float32),
    nn.Linear: _linear,
    RoundedLinear: _linear,
    nn.LayerNorm: _layer_norm,
    nn.Tanh: lambda layer, w: tanh,
    nn.ReLU: lambda layer, w: lambda x: np.maximum(x, 0.0, out=x),
    nn.ELU: _elu,
    nn.LeakyReLU: _leaky_relu,
    nn.GELU: _gelu,
    nn.SiLU: _silu,
    ActionHead: lambda layer, w: in_numpy(layer),
}

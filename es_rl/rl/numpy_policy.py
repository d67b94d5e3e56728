"""Compute a feedforward policy in NumPy, for many members at once.

Shapes: P places, n ≤ P running simulations, R rank; a matrix is (m, n).

With small control networks, the overhead of torch is most of the gap between the speed of physics and that of training.
A step of physics evicts the processor's caches, so code between two steps runs cold; there one torch operation takes as
long as ten of NumPy's.

A row's result must not depend on other rows, to the last bit. So no matrix product here takes several rows at once: its
rounding may depend on their number.

To add a kind of layer, write one function and one line in `KERNELS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from es_rl.envs.spaces import Floats, Ints
from es_rl.policies.action import ActionHead
from es_rl.policies.action_in_numpy import Array, Kernel, clipped, in_numpy, tanh
from es_rl.policies.feedforward import Feedforward
from es_rl.policies.normalizer import Normalizer, Unnormalized
from es_rl.policies.rounding import RoundedLinear, rounded
from es_rl.population.members import LowRank, Members
from es_rl.rl.compaction import Compaction


@dataclass(frozen=True)
class Factors:
    """A matrix of many members: theta + a b, low rank."""

    theta: Array  # (m, n), shared by all rows
    a: Array  # (P, m, R)
    b: Array  # (P, R, n)


Weight = Array | Factors  # an array is (P, …), or (1, …) shared by all rows
Weights = dict[str, Any]  # a layer's `Weight`s, by parameter name


class NumpyForward:
    """An actor: a chain of layers. Each row has its own weights, added by `join`, or all share the policy's."""

    def __init__(self, layers: dict[str, nn.Module], places: int = 0) -> None:
        self._layers, self._places, self._rows = layers, places, 0
        self._own: list[Array] = []  # all arrays with a row for each place
        self._kernels = [] if places else self._bind(_policys(layers))

    def join(self, members: dict[str, Members], k: int = 1) -> None:
        """Add rows for more members, k each. Low-rank members must have the same theta in all calls."""
        weights = {name: _weight(_in_use(m, name, self._layers)) for name, m in members.items()}
        own = [part for weight in weights.values() for part in _own(weight)]
        if not self._kernels:
            places = {name: _placed(weight, self._places) for name, weight in weights.items()}
            self._own = [part for weight in places.values() for part in _own(weight)]
            self._kernels = self._bind(places)
        end = self._rows + k * len(own[0])
        for array, part in zip(self._own, own, strict=True):
            array[self._rows : end] = part if k == 1 else np.repeat(part, k, axis=0)
        self._rows = end

    def __call__(self, running: Ints, obs: Floats) -> NDArray[Any]:
        """Return actions (n, A), or (n,) integers, for observations (n, O)."""
        x: Array = obs
        for kernel in self._kernels:
            x = kernel(x)
        return x

    def close(self, gaps: Compaction) -> None:
        for array in self._own:
            gaps.close(array)
        self._rows = gaps.left

    def _bind(self, weights: Mapping[str, Weight]) -> list[Kernel]:
        """Return each layer's kernel, with its weights."""
        own: dict[str, Weights] = {name: {} for name in self._layers}
        for name, weight in weights.items():
            prefix, _, short = name.rpartition(".")
            own[prefix][short] = weight
        return [KERNELS[type(layer)](layer, own[name]) for name, layer in self._layers.items()]


def _in_use(m: Members, name: str, layers: dict[str, nn.Module]) -> Members:
    """Return a parameter's members as its layer uses them: rounded weights are made explicit and rounded here, once."""
    layer = layers[name.rpartition(".")[0]]
    if not isinstance(layer, RoundedLinear) or not name.endswith(".weight"):
        return m
    if not isinstance(m, LowRank):
        return rounded(m, layer.kind)
    whole = m.theta  # one rank after another: rounding in a matrix product may depend on the number of members
    for r in range(m.a.shape[2]):
        whole = whole + m.a[:, :, r, None] * m.b[:, None, :, r]
    return rounded(whole, layer.kind)


def _weight(m: Members) -> Weight:
    """Return a parameter's members as NumPy has them."""
    if isinstance(m, LowRank):
        return Factors(m.theta.numpy(), m.a.numpy(), m.b.transpose(1, 2).numpy())
    array: Array = m.numpy()
    return array


def _own(weight: Weight) -> list[Array]:
    """Return the arrays that have a row for each place."""
    return [weight.a, weight.b] if isinstance(weight, Factors) else [weight]


def _placed(weight: Weight, places: int) -> Weight:
    """Return a weight of the same kind with so many empty rows."""
    rows = [np.empty((places, *part.shape[1:]), part.dtype) for part in _own(weight)]
    return Factors(weight.theta, *rows) if isinstance(weight, Factors) else rows[0]


def _policys(layers: dict[str, nn.Module]) -> dict[str, Weight]:
    """Return the weights (1, …) of the policy itself, shared by all rows."""
    named = {f"{name}.{short}": value for name, layer in layers.items() for short, value in layer.named_parameters()}
    return {name: _weight(_in_use(value.detach()[None], name, layers)) for name, value in named.items()}


def chain(policy: nn.Module) -> dict[str, nn.Module] | None:
    """Return the layers of a feedforward policy by name, or None if NumPy cannot compute one of them."""
    if type(policy) is not Feedforward:  # a subclass may compute anything
        return None
    layers = dict(_links(policy))
    weighted = [id(layer) for layer in layers.values() if list(layer.parameters())]
    each_once = len(set(weighted)) == len(weighted)  # a layer used twice has its weights under its first name only
    return layers if each_once and all(_has_kernel(layer) for layer in layers.values()) else None


def _links(layers: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers of a chain in order, with those of nested chains."""
    for name, layer in layers._modules.items():
        if type(layer) is nn.Sequential:
            yield from _links(layer, f"{prefix}{name}.")
        elif layer is not None:
            yield prefix + name, layer


def _has_kernel(layer: nn.Module) -> bool:
    if list(layer.buffers(recurse=False)) and isinstance(layer, (nn.Linear, nn.LayerNorm)):  # frozen weights
        return False
    if layer._forward_hooks or layer._forward_pre_hooks:
        return False
    if isinstance(layer, nn.LayerNorm) and (len(layer.normalized_shape) > 1 or layer.weight is None):
        return False
    if isinstance(layer, nn.GELU) and layer.approximate != "none":
        return False
    return type(layer) in KERNELS


def _linear(layer: nn.Module, w: Weights) -> Kernel:
    weight, bias = w["weight"], w.get("bias")
    low_rank = isinstance(weight, Factors)
    product = _low_rank_product(weight) if low_rank else lambda x: np.matvec(weight[: len(x)], x)

    def kernel(x: Array) -> Array:
        y: Array = product(x)
        if bias is not None:
            y += bias[: len(x)]
        return y

    return kernel


def _low_rank_product(weight: Factors) -> Kernel:
    """Return the kernel x thetaᵀ + (x bᵀ) aᵀ."""
    theta, a, b = weight.theta, weight.a, weight.b
    if a.shape[-1] == 1:
        a, b = a[..., 0], b[:, 0]
        own: Kernel = lambda x: np.vecdot(x, b[: len(x)])[:, None] * a[: len(x)]  # noqa: E731
    else:
        own = lambda x: np.matvec(a[: len(x)], np.matvec(b[: len(x)], x))  # noqa: E731

    def kernel(x: Array) -> Array:
        y: Array = np.matvec(theta, x)
        y += own(x)
        return y

    return kernel


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

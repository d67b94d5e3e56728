"""A feedforward policy computed in NumPy, for many members at once.

Shapes: N members, k simulations a member, R rank; a matrix is (m, n).

For the small networks of control that is most of the difference between the physics' speed and training's: a step of
physics sweeps the processor's caches, and whatever runs between two steps runs cold, where one operation of torch takes
the time of ten of NumPy's. A kind of layer = one function and one line in `KERNELS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from es_rl.members import LowRank, Members, select
from es_rl.policies.action import ActionHead
from es_rl.policies.feedforward import Feedforward
from es_rl.policies.normalizer import Normalizer, Unnormalized

Array = NDArray[Any]  # (N, k, features)
Kernel = Callable[[Array], Array]  # may write into its argument, except the first one
Weights = dict[str, Any]  # of one layer, by the layer's own parameter names: (N, 1, …), or theta (m, n) and the factors


class NumpyForward:
    """A chain of layers with the weights of N members, or of one for all simulations."""

    def __init__(self, layers: dict[str, nn.Module], weights: dict[str, Members], members: int = 1) -> None:
        self._layers, self._weights, self._members = layers, weights, members
        self._kernels = self._bind()

    def __call__(self, obs: NDArray[np.float64]) -> NDArray[Any]:
        """Observations (N·k, O) → actions (N·k, A), or (N·k,) integers."""
        n, inputs = obs.shape
        x = obs.reshape(self._members, -1, inputs)  # (N, k, O)
        for kernel in self._kernels:
            x = kernel(x)
        return x.reshape(n, *x.shape[2:])

    def keep(self, rows: NDArray[np.int64], members: NDArray[np.int64]) -> None:
        """Go on with the members at these positions."""
        if self._members > 1:
            self._weights = select(self._weights, torch.from_numpy(members))
            self._members, self._kernels = len(members), self._bind()

    def _bind(self) -> list[Kernel]:
        """Each layer's kernel with its weights."""
        own: dict[str, Weights] = {name: {} for name in self._layers}
        for name, m in self._weights.items():
            prefix, _, short = name.rpartition(".")
            if isinstance(m, LowRank):
                own[prefix][short] = tuple(part.numpy() for part in (m.theta, m.a[:, None], m.b[:, None]))
            else:
                own[prefix][short] = m.numpy()[:, None]  # the same for a member's k simulations
        return [KERNELS.get(type(layer), _by_torch)(layer, own[name]) for name, layer in self._layers.items()]


def chain(policy: nn.Module) -> dict[str, nn.Module] | None:
    """The layers of a feedforward policy by their names in it, or None if NumPy cannot compute one."""
    if type(policy) is not Feedforward:  # a subclass may compute anything
        return None
    layers = dict(_links(policy))
    weighted = [id(layer) for layer in layers.values() if list(layer.parameters())]
    each_once = len(set(weighted)) == len(weighted)  # one that comes twice has its weights by its first name only
    return layers if each_once and all(_has_kernel(layer) for layer in layers.values()) else None


def _links(layers: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The layers of a chain, and of chains within it, in their order."""
    for name, layer in layers._modules.items():
        if type(layer) is nn.Sequential:
            yield from _links(layer, f"{prefix}{name}.")
        elif layer is not None:
            yield prefix + name, layer


def _has_kernel(layer: nn.Module) -> bool:
    if isinstance(layer, nn.LayerNorm) and (len(layer.normalized_shape) > 1 or layer.weight is None):
        return False
    parts: list[Any] = [*layer.parameters(), *layer.children()]
    return type(layer) in KERNELS or not parts


def _by_torch(layer: nn.Module, w: Weights) -> Kernel:
    """For layers without parameters that are seldom used. They see rows, as in the policy itself."""

    def kernel(x: Array) -> Array:
        y: Array = layer(torch.from_numpy(x.reshape(-1, x.shape[-1]))).numpy()
        return y.reshape(*x.shape[:2], *y.shape[1:])

    return kernel


def _linear(layer: nn.Module, w: Weights) -> Kernel:
    weight, bias = w["weight"], w.get("bias")
    product = _low_rank_product(*weight) if isinstance(weight, tuple) else lambda x: np.matvec(weight, x)

    def kernel(x: Array) -> Array:
        y: Array = product(x)
        if bias is not None:
            y += bias
        return y

    return kernel


def _low_rank_product(theta: Array, a: Array, b: Array) -> Kernel:
    """x thetaᵀ, one product for all members, + (x b) aᵀ, each member's own: (m, n), (N, 1, m, R), (N, 1, n, R)."""
    shared = np.ascontiguousarray(theta.T)
    if a.shape[-1] == 1:
        a, b = np.ascontiguousarray(a[..., 0]), np.ascontiguousarray(b[..., 0])
        own: Kernel = lambda x: np.vecdot(x, b)[..., None] * a  # noqa: E731
    else:
        transposed = np.ascontiguousarray(b.swapaxes(-1, -2))
        own = lambda x: np.matvec(a, np.matvec(transposed, x))  # noqa: E731

    def kernel(x: Array) -> Array:
        y: Array = (x.reshape(-1, x.shape[-1]) @ shared).reshape(*x.shape[:-1], -1)
        y += own(x)
        return y

    return kernel


def _layer_norm(layer: nn.Module, w: Weights) -> Kernel:
    assert isinstance(layer, nn.LayerNorm)
    size, eps, gain, bias = layer.normalized_shape[0], layer.eps, w["weight"], w.get("bias")

    def kernel(x: Array) -> Array:
        x = x - np.add.reduce(x, axis=-1, keepdims=True) / size
        variance = np.add.reduce(np.square(x), axis=-1, keepdims=True) / size
        x *= gain / np.sqrt(variance + eps)
        if bias is not None:
            x += bias
        return x

    return kernel


def _normalizer(layer: nn.Module, w: Weights) -> Kernel:
    assert isinstance(layer, Normalizer)
    scale, shift, clip, inputs = layer.scale.numpy(), layer.shift.numpy(), layer.clip, layer.inputs

    def kernel(obs: Array) -> Array:
        x = obs[..., :inputs] * scale
        x += shift
        return _clipped(x, -clip, clip).astype(np.float32)

    return kernel


def _head(layer: nn.Module, w: Weights) -> Kernel:
    assert isinstance(layer, ActionHead)
    if layer.discrete:
        return lambda x: x.argmax(axis=-1) + layer.start
    squash: Kernel = _tanh if layer.squash == "tanh" else lambda x: _clipped(x, -1.0, 1.0)
    if layer.is_unit:
        return squash
    center, reach, low, high, bounded = (
        getattr(layer, name).numpy() for name in ("center", "reach", "low", "high", "bounded")
    )

    def kernel(x: Array) -> Array:
        y = np.where(bounded, squash(x.copy()), x)
        y *= reach
        y += center
        return _clipped(y, low, high)

    return kernel


def _clipped(x: Array, low: Any, high: Any) -> Array:
    """In place. np.clip does the same, three times as slowly for the few numbers of a step."""
    np.maximum(x, low, out=x)
    np.minimum(x, high, out=x)
    return x


def _tanh(x: Array) -> Array:
    return np.tanh(x, out=x)


# How a layer of each kind computes for many members: (layer, their weights) → kernel.
KERNELS: dict[type[nn.Module], Callable[[nn.Module, Weights], Kernel]] = {
    Normalizer: _normalizer,
    Unnormalized: lambda layer, w: lambda obs: obs[..., : layer.inputs].astype(np.float32),
    nn.Linear: _linear,
    nn.LayerNorm: _layer_norm,
    nn.Tanh: lambda layer, w: _tanh,
    nn.ReLU: lambda layer, w: lambda x: np.maximum(x, 0.0, out=x),
    ActionHead: _head,
}

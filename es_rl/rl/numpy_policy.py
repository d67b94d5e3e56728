"""Compute a feedforward or recurrent policy in NumPy, for many members at once.

Shapes: P places, n ≤ P running simulations, O observation, A action.

With small control networks, the overhead of torch is most of the gap between the speed of physics and that of training.
A step of physics evicts the processor's caches, so code between two steps runs cold; there one torch operation takes as
long as ten of NumPy's.

A row's result must not depend on other rows, to the last bit. So no matrix product here takes several rows at once: its
rounding may depend on their number.

Kinds of layers stand in `es_rl.rl.kernels`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from es_rl.envs.spaces import Floats, Ints
from es_rl.policies.feedforward import Feedforward
from es_rl.policies.pixels import Pixels
from es_rl.policies.recurrent import RecurrentPolicy
from es_rl.policies.rounding import RoundedLinear, rounded
from es_rl.population.members import LowRank, Members
from es_rl.rl.compaction import Compaction
from es_rl.rl.kernels.action import Array, Kernel
from es_rl.rl.kernels.layers import KERNELS
from es_rl.rl.kernels.recurrent import CELLS, Memory
from es_rl.rl.kernels.weights import Factors, Weight, Weights, own_rows, placed


class NumpyForward:
    """An actor: a chain of layers. Each row has its own weights, added by `join`, or all share the policy's.

    Rows behind those of the last call are of episodes that begin: they remember nothing.
    """

    def __init__(self, layers: dict[str, nn.Module], places: int = 0) -> None:
        self._layers, self._places, self._rows = layers, places, 0
        self._own: list[Array] = []  # all arrays of weights with a row for each place
        self._memories: list[Memory] = []  # of recurrent layers
        self._kernels = [] if places else self._bind(_policys(layers))

    def join(self, members: dict[str, Members], k: int = 1) -> None:
        """Add rows for more members, k each. Low-rank members must have the same theta in all calls."""
        weights = {name: _weight(_in_use(m, name, self._layers)) for name, m in members.items()}
        own = [part for weight in weights.values() for part in own_rows(weight)]
        if not self._kernels:
            empty = {name: placed(weight, self._places) for name, weight in weights.items()}
            self._own = [part for weight in empty.values() for part in own_rows(weight)]
            self._kernels = self._bind(empty)
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

    def drop(self, gaps: Compaction) -> None:
        for array in self._own:
            gaps.apply(array)
        for memory in self._memories:
            memory.drop(gaps)
        self._rows = gaps.left

    def _bind(self, weights: Mapping[str, Weight]) -> list[Kernel]:
        """Return each layer's kernel, with its weights."""
        own: dict[str, Weights] = {name: {} for name in self._layers}
        for name, weight in weights.items():
            prefix, _, short = name.rpartition(".")
            own[prefix][short] = weight
        return [self._kernel(layer, own[name]) for name, layer in self._layers.items()]

    def _kernel(self, layer: nn.Module, weights: Weights) -> Kernel:
        if not isinstance(layer, nn.RNNCellBase):
            return KERNELS[type(layer)](layer, weights)
        count, cell = CELLS[type(layer)]
        self._memories.append(Memory(count, layer.hidden_size))
        return cell(weights, self._memories[-1])


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


def _policys(layers: dict[str, nn.Module]) -> dict[str, Weight]:
    """Return the weights (1, …) of the policy itself, shared by all rows."""
    named = {f"{name}.{short}": value for name, layer in layers.items() for short, value in layer.named_parameters()}
    return {name: _weight(_in_use(value.detach()[None], name, layers)) for name, value in named.items()}


def chain(policy: nn.Module) -> dict[str, nn.Module] | None:
    """Return the layers of a policy that is a chain, by name, or None if NumPy cannot compute one of them."""
    if type(policy) not in (Feedforward, RecurrentPolicy):  # a subclass may compute anything
        return None
    layers = dict(_links(policy))
    if type(policy) is Feedforward and remembers(layers):  # its layers see nothing but the row before them
        return None
    weighted = [id(layer) for layer in layers.values() if list(layer.parameters())]
    each_once = len(set(weighted)) == len(weighted)  # a layer used twice has its weights under its first name only
    return layers if each_once and all(_has_kernel(layer) for layer in layers.values()) else None


def remembers(layers: Mapping[str, nn.Module]) -> bool:
    """Tell whether actions of a policy with these layers depend on earlier steps of the episode."""
    return any(type(layer) in CELLS for layer in layers.values())


def _links(layers: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers of a chain in order, with those of nested chains."""
    for name, layer in layers._modules.items():
        if type(layer) is nn.Sequential and not _is_changed(layer):
            yield from _links(layer, f"{prefix}{name}.")
        elif layer is not None:
            yield prefix + name, layer


def _is_changed(layer: nn.Module) -> bool:
    """Tell whether a call of a layer does more than its class says."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer))


def _has_kernel(layer: nn.Module) -> bool:
    if list(layer.buffers(recurse=False)) and isinstance(
        layer, (nn.Linear, nn.LayerNorm, nn.RNNCellBase)
    ):  # frozen weights
        return False
    if _is_changed(layer):
        return False
    if isinstance(layer, nn.LayerNorm) and (len(layer.normalized_shape) > 1 or layer.weight is None):
        return False
    if isinstance(layer, Pixels) and layer.as_image:
        return False
    if isinstance(layer, nn.GELU) and layer.approximate != "none":
        return False
    return type(layer) in KERNELS or type(layer) in CELLS

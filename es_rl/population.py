"""Many members of one nn.Module in one forward pass.

Shapes: N members, k rows a member; the module sees N·k rows, those of one member together.

Inside `with perturb(module, members, p):` the module's layers use every member's own weights, all members at once:

    Linear     y = x Wᵀ + b, batched over the members
    LayerNorm  the shared statistics, each member's own gain and bias

A kind of layer = one function and one line in `LAYERS`. The module itself, its parameters and buffers stay untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from es_rl.errors import EnvError
from es_rl.noise import Perturbation, directions

Weights = dict[str, Tensor]  # of one layer, by the layer's own parameter names, each (N, …)
Forward = Callable[[Tensor], Tensor]


class Population:
    """The members that a perturbed module stands for; `select` restricts it to some of them."""

    def __init__(self, module: nn.Module, layers: dict[str, Weights]) -> None:
        self._module, self._layers = module, layers  # by the layer's name in the module
        self.forward: dict[str, Forward] = {}  # of each layer, with the weights of the members that are selected

    def select(self, index: Sequence[int] | NDArray[np.int64]) -> None:
        """From now on the rows are those of the members at these positions only, which ascend."""
        rows = torch.as_tensor(index)
        for prefix, weights in self._layers.items():
            live = {name: value if len(value) == len(rows) else value[rows] for name, value in weights.items()}
            layer = self._module.get_submodule(prefix)
            self.forward[prefix] = LAYERS[type(layer)](layer, live)


@contextmanager
def perturb(module: nn.Module, members: Sequence[int], p: Perturbation) -> Iterator[Population]:
    """Let `module` stand for `members` (2i and 2i+1 are the pair ±) until the block ends.

    Memory: N copies of the parameters. Raises `EnvError` for a layer with parameters that is not in `LAYERS`.
    """
    layers: dict[str, Weights] = {}
    for name, value in member_stack(module, members, p).items():
        prefix, _, own = name.rpartition(".")
        layers.setdefault(prefix, {})[own] = value
    for prefix in layers:
        _check(prefix, module.get_submodule(prefix))
    population = Population(module, layers)
    population.select(range(len(members)))
    try:
        for prefix in layers:
            module.get_submodule(prefix).forward = _bound(prefix, population)
        yield population
    finally:
        for prefix in layers:
            vars(module.get_submodule(prefix)).pop("forward", None)


def member_stack(module: nn.Module, members: Sequence[int], p: Perturbation) -> dict[str, Tensor]:
    """Every member's weights, (N, …) by parameter name: theta ± sigma*epsilon, each epsilon drawn once a pair."""
    theta = {name: value.detach() for name, value in module.named_parameters()}
    shapes = {name: tuple(value.shape) for name, value in theta.items()}
    stack = {name: value.new_empty((len(members), *value.shape)) for name, value in theta.items()}
    rows: dict[int, list[int]] = {}
    for row, member in enumerate(members):
        rows.setdefault(member // 2, []).append(row)
    for (_, at), epsilon in zip(rows.items(), directions(shapes, list(rows), p), strict=True):
        for row in at:
            step = p.sigma if members[row] % 2 == 0 else -p.sigma
            for name, value in theta.items():
                torch.add(value, torch.from_numpy(epsilon[name]), alpha=step, out=stack[name][row])
    return stack


def _check(prefix: str, layer: nn.Module) -> None:
    if type(layer) not in LAYERS:
        known = ", ".join(kind.__name__ for kind in LAYERS)
        raise EnvError(
            f"the policy's layer {prefix or '(itself)'} is a {type(layer).__name__}: only {known} can be perturbed "
            f"as a population. Build the policy from these, or add the layer to es_rl/population.py."
        )


def _bound(prefix: str, population: Population) -> Forward:
    forward = population.forward
    return lambda x: forward[prefix](x)


def _linear(layer: nn.Module, w: Weights) -> Forward:
    weight = w["weight"].transpose(1, 2)  # (N, in, out)
    members, inputs, outputs = weight.shape
    bias = w["bias"].unsqueeze(1) if "bias" in w else torch.zeros(1, 1, 1)  # (N, 1, out)

    def forward(x: Tensor) -> Tensor:
        y = torch.baddbmm(bias, x.reshape(members, -1, inputs), weight)  # (N, k, out)
        return y.reshape(*x.shape[:-1], outputs)

    return forward


def _layer_norm(layer: nn.Module, w: Weights) -> Forward:
    assert isinstance(layer, nn.LayerNorm)
    shape, eps = layer.normalized_shape, layer.eps
    gain, bias = w["weight"].unsqueeze(1), w["bias"].unsqueeze(1) if "bias" in w else torch.zeros(())  # (N, 1, …)

    def forward(x: Tensor) -> Tensor:
        y = nn.functional.layer_norm(x, shape, eps=eps).reshape(len(gain), -1, *shape)
        return torch.addcmul(bias, y, gain).reshape(x.shape)

    return forward


# How a layer of each kind computes for many members: (layer, their weights) → forward.
LAYERS: dict[type[nn.Module], Callable[[nn.Module, Weights], Forward]] = {
    nn.Linear: _linear,
    nn.LayerNorm: _layer_norm,
}

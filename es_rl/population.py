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
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from es_rl.errors import EnvError
from es_rl.noise import Perturbation, directions

Weights = dict[str, Tensor]  # of one layer, by the layer's own parameter names, each (N, …)


class Population:
    """The members that a perturbed module stands for; `select` restricts it to some of them."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self._all = weights  # by parameter name, each (N, …)
        self._live = weights

    def select(self, index: Sequence[int] | NDArray[np.int64]) -> None:
        """From now on the rows are those of the members at these positions only, which ascend."""
        rows = torch.as_tensor(index)
        everyone = all(len(value) == len(rows) for value in self._all.values())
        self._live = self._all if everyone else {name: value[rows] for name, value in self._all.items()}

    def layer(self, prefix: str, names: Sequence[str]) -> Weights:
        """The live members' weights of the layer at `prefix`."""
        return {name: self._live[f"{prefix}.{name}" if prefix else name] for name in names}


@contextmanager
def perturb(module: nn.Module, members: Sequence[int], p: Perturbation) -> Iterator[Population]:
    """Let `module` stand for `members` (2i and 2i+1 are the pair ±) until the block ends.

    Memory: N copies of the parameters. Raises `EnvError` for a layer with parameters that is not in `LAYERS`.
    """
    population = Population(member_stack(module, members, p))
    owners = [
        (prefix, layer, [name for name, _ in layer.named_parameters(recurse=False)])
        for prefix, layer in module.named_modules()
    ]
    patched: list[nn.Module] = []
    try:
        for prefix, layer, names in owners:
            if names:
                layer.forward = _bound(prefix, layer, names, population)
                patched.append(layer)
        yield population
    finally:
        for layer in patched:
            del layer.forward


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


def _bound(prefix: str, layer: nn.Module, names: Sequence[str], population: Population) -> Callable[..., Any]:
    forward = LAYERS.get(type(layer))
    if forward is None:
        known = ", ".join(kind.__name__ for kind in LAYERS)
        raise EnvError(
            f"the policy's layer {prefix or '(itself)'} is a {type(layer).__name__}: only {known} can be perturbed "
            f"as a population. Build the policy from these, or add the layer to es_rl/population.py."
        )
    return lambda x: forward(layer, population.layer(prefix, names), x)


def _linear(layer: nn.Module, w: Weights, x: Tensor) -> Tensor:
    weight = w["weight"]  # (N, out, in)
    rows = x.reshape(weight.shape[0], -1, weight.shape[2])  # (N, k, in)
    if "bias" in w:
        y = torch.baddbmm(w["bias"].unsqueeze(1), rows, weight.transpose(1, 2))
    else:
        y = torch.bmm(rows, weight.transpose(1, 2))
    return y.reshape(*x.shape[:-1], weight.shape[1])


def _layer_norm(layer: nn.Module, w: Weights, x: Tensor) -> Tensor:
    assert isinstance(layer, nn.LayerNorm)
    y = nn.functional.layer_norm(x, layer.normalized_shape, eps=layer.eps)
    if "weight" not in w:
        return y
    members, shape = w["weight"].shape[0], layer.normalized_shape
    y = y.reshape(members, -1, *shape) * w["weight"].unsqueeze(1)  # (N, k, …)
    if "bias" in w:
        y = y + w["bias"].unsqueeze(1)
    return y.reshape(x.shape)


LAYERS: dict[type[nn.Module], Callable[[nn.Module, Weights, Tensor], Tensor]] = {
    nn.Linear: _linear,
    nn.LayerNorm: _layer_norm,
}

"""Tell how parameters should move so that a network's outputs move along given slopes. Nothing is differentiated.

Shapes: n rows, m units of a layer, h inputs of a layer, A outputs of the network.

Each row is a pair of members of its own: theta ± sigma*epsilon, with dense noise. Of the noise of a matrix, a row with
the input x meets only its part along x, so that part alone is drawn: standard normal numbers, one for each unit, times
|x|. A row's outputs change by `change` between its two members. The members' difference in score is the product of
`change` with the row's slopes, and the estimate of one row is

    (slopes · change)/(2 sigma) · E[epsilon | the row's noise],    E[epsilon | …] = (noise of the units) xᵀ/|x|

a dense evolution strategy whose noise is projected on what the row met: the same mean, and a variance that grows with
the units, not with the weights. (How noise on weights adds up to noise on units' sums: Flower & Jabri 1992, "Summed
weight neuron perturbation".) A layer whose sums are the outputs themselves has the expectation over the noise, slopes
xᵀ, exactly.

Layers: `nn.Linear` and its subclasses, `nn.LayerNorm` with a gain. What they compute from their sums may be anything:
steps and rounding too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from es_rl.errors import ConfigError


@dataclass
class _Met:
    """What a layer met in the pass without noise."""

    features: Tensor  # (n, h) inputs; of a layer norm (n, m), the normalised inputs
    sums: Tensor  # (n, m) its outputs
    reach: Tensor  # (n, 1) or (n, m): the factor from the noise of parameters to that of a sum


class Credit:
    """Estimates for the layers of a module. Raises `ConfigError` if another part of it has parameters."""

    def __init__(self, module: nn.Module) -> None:
        self._layers = {name: part for name, part in module.named_modules() if _is_layer(part)}
        self._met: dict[str, _Met] = {}  # in the latest pass without noise
        held = {id(p) for layer in self._layers.values() for p in layer.parameters(recurse=False)}
        for name, parameter in module.named_parameters():
            if id(parameter) not in held:
                raise ConfigError(
                    f"{name}: belongs to no linear layer and no layer norm, so steps cannot judge it. "
                    f"Judge whole episodes, or use another policy."
                )

    def estimate(
        self, forward: Callable[[], Tensor], slopes: Tensor, *, sigma: float, noise: np.random.Generator
    ) -> dict[str, Tensor]:
        """Return the mean over rows of the direction in which each parameter should move, by name.

        `forward()` runs the module on a batch and returns the outputs (n, A). `slopes` (n, A) says how a row's score
        changes with its outputs. `sigma` is the standard deviation of the perturbation of each parameter: small, since
        only the linear part of the change counts.
        """
        with torch.no_grad():
            self._met = {}
            with self._hooked(self._meet):
                outputs = forward()
            drawn = {
                name: torch.from_numpy(noise.standard_normal(tuple(met.sums.shape), dtype=np.float32))
                for name, met in self._met.items()
                if met.sums is not outputs
            }
            if drawn:
                plus, minus = (self._perturbed(forward, drawn, step) for step in (sigma, -sigma))
                weight = ((plus - minus) * slopes).sum(1, keepdim=True) / (2 * sigma)  # (n, 1)
            found = dict[str, Tensor]()
            for name, met in self._met.items():
                # how the score of a row changes with the sums of this layer, (n, m)
                on_sums = weight * drawn[name] / met.reach if name in drawn else slopes
                found |= {f"{name}.{short}": value for short, value in _of(self._layers[name], met, on_sums).items()}
            return found

    def _perturbed(self, forward: Callable[[], Tensor], drawn: Mapping[str, Tensor], step: float) -> Tensor:
        def add(name: str, layer: nn.Module, args: Any, out: Tensor) -> Tensor | None:
            return torch.addcmul(out, self._met[name].reach, drawn[name], value=step) if name in drawn else None

        with self._hooked(add):
            return forward()

    def _meet(self, name: str, layer: nn.Module, args: Any, out: Tensor) -> None:
        if name in self._met:
            raise ConfigError(f"{name}: is used twice in a forward pass, so steps cannot judge it.")
        (x,) = args
        if isinstance(layer, nn.LayerNorm):
            x = F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
            reach = (x.square() + (layer.bias is not None)).sqrt()
        else:
            reach = (x.square().sum(1, keepdim=True) + (layer.bias is not None)).sqrt()
        self._met[name] = _Met(x, out, reach.clamp(min=torch.finfo(x.dtype).tiny))

    @contextmanager
    def _hooked(self, hook: Callable[..., Any]) -> Iterator[None]:
        handles = [layer.register_forward_hook(partial(hook, name)) for name, layer in self._layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _is_layer(part: nn.Module) -> bool:
    return isinstance(part, nn.Linear) or (isinstance(part, nn.LayerNorm) and part.weight is not None)


def _of(layer: nn.Module, met: _Met, on_sums: Tensor) -> dict[str, Tensor]:
    """Return the estimates of a layer's parameters from those of its sums (n, m)."""
    n = len(on_sums)
    norm = isinstance(layer, nn.LayerNorm)
    found = {"weight": (on_sums * met.features).mean(0) if norm else on_sums.T @ met.features / n}
    return found | ({"bias": on_sums.mean(0)} if layer.bias is not None else {})

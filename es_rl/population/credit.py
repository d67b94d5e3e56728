"""Tell how parameters should move so that a network's outputs move along given slopes. Nothing is differentiated.

Shapes: n rows, m units of a layer, h inputs of a layer, A outputs of the network.

Each row is judged by a pair of members of its own, theta ± sigma*epsilon. For a matrix (m, h) and the input x (h,) that
the row meets, epsilon = s xᵀ/|x|, with random signs s (m,): rank one, since of any perturbation a row meets only the
part along its input. A bias counts as a weight whose input is 1. So the sums of the layer move by ± sigma·s·|x|. The
members' difference in score is the product of the row's slopes with the difference of their outputs, and the estimate
of one row

    (slopes · (outputs⁺ − outputs⁻))/(2 sigma) · s xᵀ/|x|

has the same mean as that of dense noise, but a variance that grows with the number of units, not of weights. (Noise on
units in place of weights: Flower & Jabri 1992, "Summed weight neuron perturbation". Signs: Spall 1992, doi
10.1109/9.119632.) A layer whose sums are the outputs themselves has the expectation over the noise, slopes xᵀ, exactly.

Layers: `nn.Linear` and its subclasses, `nn.LayerNorm` with a gain. What they compute from their sums may be anything:
steps and rounding too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from es_rl.errors import ConfigError

# The eight signs that a random byte gives.
SIGNS = (np.arange(256)[:, None] >> np.arange(8) & 1).astype(np.float32) * 2 - 1


@dataclass
class _Met:
    """What a layer met."""

    features: Tensor  # (n, h) inputs; of a layer norm (n, m), the normalised inputs
    reach: Tensor  # (n, 1) or (n, m): the factor from the noise of parameters to that of a sum
    signs: Tensor | None  # (n, m); None: no noise, since the sums are the outputs


class Credit:
    """Estimates for the layers of a module. Raises `ConfigError` if another part of it has parameters."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._layers = {name: part for name, part in module.named_modules() if _is_layer(part)}
        self._met: dict[str, _Met] = {}  # in the latest pass
        self._last = ""  # the layer whose sums are the outputs, once it is known
        held = {id(p) for layer in self._layers.values() for p in layer.parameters(recurse=False)}
        for name, parameter in module.named_parameters():
            if id(parameter) not in held:
                raise ConfigError(
                    f"{name}: belongs to no linear layer and no layer norm, so steps cannot judge it. "
                    f"Judge whole episodes, or use another policy."
                )

    def estimate(
        self, x: Tensor, slopes: Callable[[Tensor], Tensor], *, sigma: float, noise: np.random.Generator
    ) -> dict[str, Tensor]:
        """Return the mean over rows of the direction in which each parameter should move, by name.

        `x` (n, …) is a batch of the module's inputs. `slopes(outputs)` returns how the score of a row changes with its
        outputs, (n, A). `sigma` is the size of the perturbation: small, for only the linear part of the change counts.
        """
        with torch.no_grad():
            self._last = self._last or self._find_last(x)
            self._met = {}
            # One pass: rows without noise, rows with it, rows with it subtracted.
            with self._hooked(partial(self._meet, sigma, noise)):
                outputs, plus, minus = self._module(torch.cat([x, x, x])).chunk(3)
            along = slopes(outputs)
            weight = ((plus - minus) * along).sum(1, keepdim=True) / (2 * sigma)  # (n, 1)
            found = dict[str, Tensor]()
            for name, met in self._met.items():
                # how the score of a row changes with the sums of this layer, (n, m)
                on_sums = along if met.signs is None else weight * met.signs / met.reach
                found |= {f"{name}.{short}": value for short, value in _of(self._layers[name], met, on_sums).items()}
            return found

    def _find_last(self, x: Tensor) -> str:
        """Return the name of the layer whose sums are the module's outputs; another name if there is none."""
        sums: dict[str, Tensor] = {}
        with self._hooked(lambda name, layer, args, out: sums.update({name: out})):
            outputs = self._module(x)
        return next((name for name, value in sums.items() if value is outputs), "none")

    def _meet(
        self, sigma: float, noise: np.random.Generator, name: str, layer: nn.Module, args: Any, out: Tensor
    ) -> None:
        """Note what a layer meets, and perturb its sums."""
        if name in self._met:
            raise ConfigError(f"{name}: is used twice in a forward pass, so steps cannot judge it.")
        x = args[0][: len(args[0]) // 3]
        bias = int(layer.bias is not None)
        if isinstance(layer, nn.LayerNorm):
            x = F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
            reach = (x.square() + bias).sqrt()
        else:
            reach = (x.square().sum(1, keepdim=True) + bias).sqrt()
        self._met[name] = met = _Met(x, reach.clamp_(min=torch.finfo(x.dtype).tiny), None)
        if name != self._last:
            _, plus, minus = out.chunk(3)
            met.signs = _signs(noise, plus)
            change = met.signs * met.reach
            plus.add_(change, alpha=sigma)
            minus.sub_(change, alpha=sigma)

    @contextmanager
    def _hooked(self, hook: Callable[..., Any]) -> Iterator[None]:
        handles = [layer.register_forward_hook(partial(hook, name)) for name, layer in self._layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _signs(noise: np.random.Generator, like: Tensor) -> Tensor:
    """Return random signs, as many as `like` has numbers."""
    drawn = SIGNS[np.frombuffer(noise.bytes(like.numel() // 8 + 1), np.uint8)].reshape(-1)
    return torch.from_numpy(drawn[: like.numel()]).to(like.dtype).reshape(like.shape)


def _is_layer(part: nn.Module) -> bool:
    return isinstance(part, nn.Linear) or (isinstance(part, nn.LayerNorm) and part.weight is not None)


def _of(layer: nn.Module, met: _Met, on_sums: Tensor) -> dict[str, Tensor]:
    """Return the estimates of a layer's parameters from those of its sums (n, m)."""
    n = len(on_sums)
    norm = isinstance(layer, nn.LayerNorm)
    found = {"weight": (on_sums * met.features).mean(0) if norm else on_sums.T @ met.features / n}
    return found | ({"bias": on_sums.mean(0)} if layer.bias is not None else {})

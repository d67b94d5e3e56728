"""Tell how parameters should move so that a network's outputs move along given slopes. Nothing is differentiated.

Shapes: n rows, m units of a layer, h inputs of a layer, A outputs of the network.

Each row is judged by members of its own, one for each layer: theta + sigma*epsilon. For a matrix (m, h) and the input
x (h,) that the row meets, epsilon = s xᵀ/|x|, with random signs s (m,): rank one, since of any perturbation a row meets
only the part along its input. A bias counts as a weight whose input is 1. So the sums of the layer move by sigma·s·|x|.
How much a member scores above theta is the product of the row's slopes with the difference of their outputs:

    estimate of a row = (slopes · Δoutputs)/sigma · s xᵀ/|x|                                                         (1)

has for small sigma the mean of dense noise, but a variance that grows with the number of units, not of weights. It has
the mean of a pair theta ± sigma*epsilon too, since s and −s are equally likely. Its variance is larger by that of the
part that is even in sigma. A pair would be a second member, while theta's outputs are needed anyway. (Noise on
units in place of weights: Flower & Jabri 1992, "Summed weight neuron perturbation". Signs: Spall 1992, doi
10.1109/9.119632.) Most of this variance is the noise of the other units. It can be predicted: the activation of each
unit has changed by Δa (m,), and activations move outputs by a certain amount on average, their influence F (A, m). The
same members measure it over many rows. With the prediction as a control variate, the estimate for unit j, before
xᵀ/|x|, is

    (slopes · F_j) Δa_j/sigma · s_j + C (slopes · (Δoutputs − F Δa))/sigma · s_j                                     (2)

With C = 1 it has the mean of (1), whatever F is. A smaller C has less variance and some bias. (Feedback that is learned
by perturbation: Lansdell, Prakash & Kording 2020, arXiv 1906.00889. Direct feedback from the outputs to each layer:
Nøkland 2016, arXiv 1609.01596.) The last layer has the expectation over the noise, slopes xᵀ, exactly.

Layers: `nn.Linear` and its subclasses, `nn.LayerNorm` with a gain, one after another. Between two of them, each unit
has any function of its own: steps and rounding too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from es_rl.errors import ConfigError

CORRECTION = 0.2  # C in equation 2
MEMORY = 0.9  # weight of the influence measured before, at each new measurement
# The eight signs that a random byte gives.
SIGNS = (np.arange(256)[:, None] >> np.arange(8) & 1).astype(np.float32) * 2 - 1


@dataclass
class _Met:
    """What a layer met in a pass."""

    features: Tensor  # (n, h) inputs; of a layer norm (n, m), the normalised inputs
    probe: Tensor  # (n, m) signs, each over the length of its row's input; empty for the last layer
    change: Tensor = field(default_factory=lambda: torch.empty(0))  # (n, m) of the activations, Δa/sigma


@dataclass
class _Influence:
    """How the outputs move with the activations of a layer: a regression over rows."""

    products: Tensor  # (A, m) mean of Δoutputs Δa, each over sigma
    squares: Tensor  # (m,) mean of Δa²

    @property
    def slope(self) -> Tensor:
        """The influence (A, m); 0 for units whose activation never changes."""
        return self.products / self.squares.clamp(min=torch.finfo(self.squares.dtype).tiny)

    def then(self, later: _Influence) -> _Influence:
        """Return it with a later measurement."""
        return _Influence(
            torch.lerp(later.products, self.products, MEMORY), torch.lerp(later.squares, self.squares, MEMORY)
        )


class Credit:
    """Estimates for the layers of a module. Raises `ConfigError` if another part of it has parameters."""

    def __init__(self, module: nn.Module, correction: float = CORRECTION) -> None:
        self._module, self._correction = module, correction
        self._layers = {name: part for name, part in module.named_modules() if _is_layer(part)}
        self._order: list[str] = []  # the layers as they run, once it is known
        self._influence: dict[str, _Influence] = {}  # of each layer but the last, once it was measured
        held = {id(p) for layer in self._layers.values() for p in layer.parameters(recurse=False)}
        for name, parameter in module.named_parameters():
            if id(parameter) not in held:
                raise ConfigError(
                    f"{name}: belongs to no linear layer and no layer norm, so steps cannot judge it. "
                    f"Judge whole episodes, or use another policy."
                )

    @property
    def members(self) -> int:
        """Members of each row: one for each layer but the last."""
        return len(self._layers) - 1

    def measure(self, x: Tensor, *, sigma: float, noise: np.random.Generator) -> None:
        """Measure the influence of all layers on a batch of inputs (n, …). Call it before the first `estimate`."""
        with torch.no_grad():
            _, changes, met = self._pass(x, sigma, noise)
            self._influence = _influences(changes, met)

    def estimate(
        self, x: Tensor, slopes: Callable[[Tensor], Tensor], *, sigma: float, noise: np.random.Generator
    ) -> dict[str, Tensor]:
        """Return the mean over rows of the direction in which each parameter should move, by name.

        `x` (n, …) is a batch of the module's inputs. `slopes(outputs)` returns how the score of a row changes with its
        outputs, (n, A). `sigma` is the size of the perturbation: small, so that changes are linear. Where activations
        are steps, it must be so large that units change.
        """
        with torch.no_grad():
            outputs, changes, met = self._pass(x, sigma, noise)
            along, found = slopes(outputs), dict[str, Tensor]()
            for name in self._order:
                on_sums = along if name == self._order[-1] else self._on_sums(name, met[name], changes[name], along)
                found |= {f"{name}.{short}": v for short, v in _of(self._layers[name], met[name], on_sums).items()}
            for name, measured in _influences(changes, met).items():
                self._influence[name] = self._influence[name].then(measured)
            return found

    def _on_sums(self, name: str, met: _Met, change: Tensor, along: Tensor) -> Tensor:
        """Return how the score of a row changes with the sums of a layer, (n, m): equation 2."""
        influence = self._influence[name].slope
        missed = change - met.change @ influence.T  # (n, A)
        rest = self._correction * (missed * along).sum(1, keepdim=True)
        return (torch.addcmul(rest, along @ influence, met.change)).mul_(met.probe)

    def _pass(
        self, x: Tensor, sigma: float, noise: np.random.Generator
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, _Met]]:
        """Run rows without noise, and the member of each layer, all at once.

        A member has the sums of its layer, perturbed, and all that follows. Before its layer it is as the rows without
        noise. Return the outputs (n, A) without noise, the difference Δoutputs/sigma of each layer's member, and what
        layers met.
        """
        self._order = self._order or self._find_order(x[:1])
        hidden, met = self._order[:-1], dict[str, _Met]()
        with self._hooked(partial(self._meet, met, sigma, noise)):
            outputs, *members = self._module(x).chunk(1 + len(hidden))
        changes = {name: (member - outputs) / sigma for name, member in zip(hidden, members, strict=True)}
        return outputs, changes, met

    def _meet(
        self,
        met: dict[str, _Met],
        sigma: float,
        noise: np.random.Generator,
        name: str,
        layer: nn.Module,
        args: Any,
        out: Tensor,
    ) -> Tensor:
        """Note what a layer meets. Return its sums, with those of its own member below."""
        i = len(met)
        inputs = args[0].chunk(i + 1)
        if i:
            met[self._order[i - 1]].change = (inputs[-1] - inputs[0]) / sigma
        x, bias = inputs[0], int(layer.bias is not None)
        if isinstance(layer, nn.LayerNorm):
            x = F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
            reach = (x.square() + bias).sqrt()
        else:
            reach = (x.square().sum(1, keepdim=True) + bias).sqrt()
        met[name] = _Met(x, torch.empty(0))
        if i == len(self._order) - 1:
            return out
        sums, reach = out[: len(x)], reach.clamp_(min=torch.finfo(x.dtype).tiny)
        signs = _signs(noise, sums)
        met[name].probe = signs / reach
        return torch.cat([out, torch.addcmul(sums, signs, reach, value=sigma)])

    def _find_order(self, x: Tensor) -> list[str]:
        """Return the names of the layers in the order in which they run. Raises `ConfigError` if it is not a chain."""
        ran: list[tuple[str, Tensor, Tensor]] = []
        with self._hooked(lambda name, layer, args, out: ran.append((name, args[0], out))):
            outputs = self._module(x)
        names = [name for name, _, _ in ran]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"{name}: is used twice in a forward pass, so steps cannot judge it.")
        for (name, _, sums), (_, after, _) in pairwise(ran):
            if sums.shape != after.shape:
                raise ConfigError(f"{name}: is not followed by a function of each unit, so steps cannot judge it.")
        if not ran or ran[-1][2] is not outputs or len(ran) != len(self._layers):
            raise ConfigError("a policy that is not a chain of layers cannot be judged by steps. Judge whole episodes.")
        return names

    @contextmanager
    def _hooked(self, hook: Callable[..., Any]) -> Iterator[None]:
        handles = [layer.register_forward_hook(partial(hook, name)) for name, layer in self._layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _influences(changes: dict[str, Tensor], met: dict[str, _Met]) -> dict[str, _Influence]:
    """Return the influence of each layer but the last, measured by one pass."""
    return {
        name: _Influence(change.T @ met[name].change / len(change), met[name].change.square().mean(0))
        for name, change in changes.items()
    }


def _signs(noise: np.random.Generator, like: Tensor) -> Tensor:
    """Return random signs, as many as `like` has numbers."""
    drawn = SIGNS.take(np.frombuffer(noise.bytes(like.numel() // 8 + 1), np.uint8), axis=0).reshape(-1)
    return torch.from_numpy(drawn[: like.numel()]).to(like.dtype).reshape(like.shape)


def _is_layer(part: nn.Module) -> bool:
    return isinstance(part, nn.Linear) or (isinstance(part, nn.LayerNorm) and part.weight is not None)


def _of(layer: nn.Module, met: _Met, on_sums: Tensor) -> dict[str, Tensor]:
    """Return the estimates of a layer's parameters from those of its sums (n, m)."""
    n = len(on_sums)
    norm = isinstance(layer, nn.LayerNorm)
    found = {"weight": (on_sums * met.features).mean(0) if norm else on_sums.T @ met.features / n}
    return found | ({"bias": on_sums.mean(0)} if layer.bias is not None else {})

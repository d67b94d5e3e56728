"""Tell how parameters should move so that a network's outputs move along given slopes. Nothing is differentiated.

Shapes: n rows, m units of a layer, h inputs of a layer, A outputs of the network.

Each row has perturbed members of its own, one for each layer but the last: theta + sigma*epsilon. For a matrix (m, h)
and the input x (h,) that the row meets, epsilon = s xᵀ/|x|, with random signs s (m,): rank one, since of any
perturbation a row meets only the part along its input. A bias counts as a weight whose input is 1. So the sums of the
layer move by sigma·s·|x|, and their activations by Δa (m,). (Noise on units in place of weights: Flower & Jabri 1992,
"Summed weight neuron perturbation". Signs: Spall 1992, doi 10.1109/9.119632.)

A member's score alone tells little: all units of a layer move at once, and what one of them does drowns in what the
others do. So a member is compared with theta at the sums of the next layer, which move by Δz, and two things are
measured there. One is how each activation of this row follows its own sum. The other is the influence F of the
activations on the next sums: F_kj = Σ Δz_k Δa_j / Σ Δa_j², over the rows of many batches. Signs of different units are
independent, so the others' part has mean 0. (Noise that tells a layer the weights of the next one: Akrout et al. 2019,
"Deep learning without weight transport", arXiv 1904.05391.) With the credit c of the next sums, that of the sum j is

    (Σ_k c_k F_kj) · Δa_j/(sigma s_j |x|)                                                                            (1)

The credit of the outputs is given: the slopes. So it goes back from layer to layer, and the row's direction for a layer
is its credit (m,) times xᵀ. For small sigma the mean of all rows is the gradient, where there is one, but for the noise
in F. Normalisation makes F differ between rows: then it counts by its mean.

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

# The eight signs that a random byte gives.
SIGNS = (np.arange(256)[:, None] >> np.arange(8) & 1).astype(np.float32) * 2 - 1


def _none() -> Tensor:
    return torch.empty(0)


@dataclass
class _Met:
    """What a layer met in a pass. The member is that of this layer, but for the last one, which has none."""

    features: Tensor  # (n, h) inputs; of a layer norm (n, m), the normalised inputs
    probe: Tensor = field(default_factory=_none)  # (n, m) signs, each over the length of its row's input
    change: Tensor = field(default_factory=_none)  # (n, m) of the member's activations, Δa/sigma
    next_change: Tensor = field(default_factory=_none)  # (n, m of the next layer) of the member's next sums, Δz/sigma


@dataclass(frozen=True)
class _Influence:
    """How the sums of a layer move with the activations before it: a regression over all rows so far."""

    products: Tensor  # (m of the next layer, m) sum of Δz Δa
    squares: Tensor  # (m,) sum of Δa²

    @classmethod
    def measured(cls, met: _Met) -> _Influence:
        """Return the influence that the rows of one pass show."""
        return cls(met.next_change.T @ met.change, met.change.square().sum(0))

    @property
    def slope(self) -> Tensor:
        """The influence F; 0 for units whose activation never changes."""
        return self.products / self.squares.clamp(min=torch.finfo(self.squares.dtype).tiny)

    def __add__(self, other: _Influence) -> _Influence:
        return _Influence(self.products + other.products, self.squares + other.squares)


class Credit:
    """Estimates for the layers of a module. Raises `ConfigError` if another part of it has parameters."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._layers = {name: part for name, part in module.named_modules() if _is_layer(part)}
        self._order: list[str] = []  # the layers as they run, once it is known
        self._influence: dict[str, _Influence] = {}  # of the activations after each layer but the last, once measured
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
            self._count(self._pass(x, sigma, noise)[1])

    def estimate(
        self, x: Tensor, slopes: Callable[[Tensor], Tensor], *, sigma: float, noise: np.random.Generator
    ) -> dict[str, Tensor]:
        """Return the mean over rows of the direction in which each parameter should move, by name.

        `x` (n, …) is a batch of the module's inputs. `slopes(outputs)` returns how the score of a row changes with its
        outputs, (n, A). `sigma` is the size of the perturbation: small, so that changes are linear. Where activations
        are steps, it must be so large that units change.
        """
        with torch.no_grad():
            outputs, met = self._pass(x, sigma, noise)
            credit = slopes(outputs)
            of_sums = {self._order[-1]: credit}
            for name in reversed(self._order[:-1]):  # equation 1
                credit = (credit @ self._influence[name].slope).mul_(met[name].change).mul_(met[name].probe)
                of_sums[name] = credit
            self._count(met)
            return {
                f"{name}.{short}": value
                for name in self._order
                for short, value in _of(self._layers[name], met[name], of_sums[name]).items()
            }

    def _count(self, met: dict[str, _Met]) -> None:
        """Count the rows of a pass in the influence of all layers."""
        for name in self._order[:-1]:
            measured = _Influence.measured(met[name])
            self._influence[name] = self._influence[name] + measured if name in self._influence else measured

    def _pass(self, x: Tensor, sigma: float, noise: np.random.Generator) -> tuple[Tensor, dict[str, _Met]]:
        """Run rows without noise, and beside them the member of each layer, from there to the sums of the next layer.

        Return the outputs (n, A) without noise, and what layers met.
        """
        self._order = self._order or self._find_order(x[:1])
        met = dict[str, _Met]()
        with self._hooked(partial(self._meet, met, sigma, noise)):
            outputs: Tensor = self._module(x)
        return outputs, met

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
        x, sums = args[0], out
        if met:  # below the rows is the member of the layer before
            (x, perturbed), (sums, moved) = x.chunk(2), sums.chunk(2)
            before = met[self._order[len(met) - 1]]
            before.change, before.next_change = (perturbed - x) / sigma, (moved - sums) / sigma
        bias = int(layer.bias is not None)
        if isinstance(layer, nn.LayerNorm):
            x = F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
            reach = (x.square() + bias).sqrt()
        else:
            reach = (x.square().sum(1, keepdim=True) + bias).sqrt()
        met[name] = _Met(x)
        if len(met) == len(self._order):
            return sums
        signs, reach = _signs(noise, sums), reach.clamp_(min=torch.finfo(x.dtype).tiny)
        met[name].probe = signs / reach
        return torch.cat([sums, torch.addcmul(sums, signs, reach, value=sigma)])

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

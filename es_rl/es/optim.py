"""Ascent on theta by an optimiser of torch.optim, or by ClipUp, as one pure function `step`.

To add an optimiser, add one line to `OPTIMIZERS`: a function of (parameters, settings, lr) that builds a torch
optimiser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from es_rl.errors import ConfigError, lookup
from es_rl.es.config import TORCH, OptimConfig

Named = Mapping[str, Tensor]


class ClipUp(torch.optim.Optimizer):
    """Normalised gradient with momentum and a speed limit (Toklu et al. 2020, arXiv 2008.02387, algorithm 1).

    v ← momentum·v + lr·g/‖g‖; then ‖v‖ is clipped to `max_speed` and theta ← theta + v. Norms are over all parameters.
    With weight decay, g is replaced by g − weight_decay·theta. If g is zero, only the momentum remains.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float,
        momentum: float = 0.9,
        max_speed: float,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "max_speed": max_speed, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        params: list[Tensor] = [p for p in group["params"] if p.grad is not None]
        grads = [p.grad + group["weight_decay"] * p for p in params]
        norm = _norm(grads)
        for p, grad in zip(params, grads, strict=True):
            velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
            velocity.mul_(group["momentum"])
            if norm > 0:
                velocity.sub_(grad * (group["lr"] / norm))
        velocities = [self.state[p]["velocity"] for p in params]
        speed = _norm(velocities)
        for p, velocity in zip(params, velocities, strict=True):
            if speed > group["max_speed"]:
                velocity.mul_(group["max_speed"] / speed)
            p.add_(velocity)


def _norm(tensors: Iterable[Tensor]) -> float:
    return float(torch.stack([t.double().square().sum() for t in tensors]).sum().sqrt())


def _clipup(params: list[Tensor], c: OptimConfig, lr: float) -> torch.optim.Optimizer:
    max_speed = 2 * lr if c.max_speed is None else c.max_speed
    return ClipUp(params, lr=lr, momentum=c.momentum, max_speed=max_speed, weight_decay=c.weight_decay)


OPTIMIZERS: dict[str, Callable[[list[Tensor], OptimConfig, float], torch.optim.Optimizer]] = {
    "sgd": lambda params, c, lr: torch.optim.SGD(params, lr=lr, momentum=c.momentum, weight_decay=c.weight_decay),
    "adam": lambda params, c, lr: torch.optim.Adam(
        params, lr=lr, betas=(c.beta1, c.beta2), eps=c.eps, weight_decay=c.weight_decay
    ),
    "adamw": lambda params, c, lr: torch.optim.AdamW(
        params, lr=lr, betas=(c.beta1, c.beta2), eps=c.eps, weight_decay=c.weight_decay
    ),
    "clipup": _clipup,
}


def check_optimizer(name: str, key: str) -> None:
    """Raise `ConfigError` unless there is an optimiser of this name: one of `OPTIMIZERS`, or torch.optim.CLASS."""
    kind = getattr(torch.optim, name.removeprefix(TORCH), None) if name.startswith(TORCH) else None
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        classes = {kind.lower(): kind for kind, found in vars(torch.optim).items() if isinstance(found, type)}
        if name not in OPTIMIZERS and (meant := classes.get(name.lower())) and name.lower() not in OPTIMIZERS:
            raise ConfigError(f"{key}={name}: unknown. Did you mean {TORCH}{meant}?")
        lookup(OPTIMIZERS, name, key)
        return
    params = [torch.zeros(2, 3), torch.zeros(3)]
    for p in params:
        p.grad = torch.ones_like(p)
    try:
        optimizer = kind(params, lr=0.1)  # type: ignore[call-arg]
        optimizer.step()
    except Exception as error:
        raise ConfigError(f"{key}={name}: cannot step on a gradient alone ({error}). Give another.") from error
    kept = [(p, value) for p in params for value in optimizer.state[p].values()]
    if not all(isinstance(value, Tensor) and value.shape in ((), p.shape) for p, value in kept):
        raise ConfigError(f"{key}={name}: keeps a state of another form than its parameters. Give another.")


def _make(params: list[Tensor], config: OptimConfig, lr: float) -> torch.optim.Optimizer:
    if not config.name.startswith(TORCH):
        return lookup(OPTIMIZERS, config.name, "optim.name")(params, config, lr)
    made: torch.optim.Optimizer = getattr(torch.optim, config.name.removeprefix(TORCH))(params, lr=lr)
    return made


def entries(config: OptimConfig) -> dict[str, Tensor]:
    """Return the state that an optimiser keeps of a parameter of two numbers after a step, by entry."""
    _, state = step({"p": torch.zeros(2)}, {"p": torch.ones(2)}, {}, config=config, lr=config.lr)
    return {key.removeprefix("p/"): value for key, value in state.items()}


class Ascent:
    """Steps of an optimiser that move `theta` in place; `fused`: in one call for all parameters, where torch has one.

    `state` maps `parameter/entry` (such as `0.weight/exp_avg`) to a tensor, copied here. It is empty before the first
    step.
    """

    def __init__(self, theta: Named, state: Named, *, config: OptimConfig, lr: float, fused: bool = False) -> None:
        self._theta = dict(theta)
        self._optimizer = _make(list(self._theta.values()), config, lr)
        if fused and isinstance(self._optimizer, (torch.optim.Adam, torch.optim.AdamW)):
            for group in self._optimizer.param_groups:
                group["fused"] = True
        for key, value in state.items():
            name, entry = key.rsplit("/", 1)
            self._optimizer.state[self._theta[name]][entry] = value.clone()

    def step(self, update: Named) -> None:
        """Take one ascent step along `update`."""
        for name, param in self._theta.items():
            param.grad = -update[name]  # torch.optim descends
        self._optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """Return the optimiser's state."""
        return {
            f"{name}/{entry}": value
            for name, param in self._theta.items()
            for entry, value in self._optimizer.state[param].items()
            if isinstance(value, Tensor)
        }


def step(
    theta: Named, update: Named, state: Named, *, config: OptimConfig, lr: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return theta and the optimiser's state after one ascent step along `update`. The arguments are not changed.

    See `Ascent` for `state`.
    """
    params = {name: value.clone() for name, value in theta.items()}
    ascent = Ascent(params, state, config=config, lr=lr)
    ascent.step(update)
    return {name: param.detach() for name, param in params.items()}, ascent.state()

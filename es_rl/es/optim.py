"""Ascent on theta: by the functions behind torch's SGD, Adam and AdamW, by ClipUp, or by any class of torch.optim.

The classes of torch.optim import torch's compiler when they are first used, which takes about as long as to import
torch. The functions do not. To add an optimiser, add one line to `OPTIMIZERS`: a `Rule`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from es_rl.errors import ConfigError, lookup
from es_rl.es.config import TORCH, OptimConfig

Named = Mapping[str, Tensor]
State = dict[str, Any]  # what an optimiser keeps of one parameter, by entry; empty before the first step


class Rule(Protocol):
    """One step of descent against the gradients: change parameters and states in place.

    `fused` asks for one call for all parameters, where torch has such a call.
    """

    def __call__(
        self, params: list[Tensor], grads: list[Tensor], states: list[State], c: OptimConfig, lr: float, fused: bool
    ) -> None: ...


def _sgd(
    params: list[Tensor], grads: list[Tensor], states: list[State], c: OptimConfig, lr: float, fused: bool
) -> None:  # fmt: skip
    buffers = [state.get("momentum_buffer") for state in states]
    sgd(
        params, grads, buffers,
        lr=lr, momentum=c.momentum, weight_decay=c.weight_decay, dampening=0, nesterov=False, maximize=False,
    )  # fmt: skip
    for state, buffer in zip(states, buffers, strict=True):
        if c.momentum:
            state["momentum_buffer"] = buffer


def _adam(
    params: list[Tensor], grads: list[Tensor], states: list[State], c: OptimConfig, lr: float, fused: bool,
    *, by: Any = adam,
) -> None:  # fmt: skip
    for p, state in zip(params, states, strict=True):
        if not state:
            step = torch.zeros((), dtype=torch.float32, device=p.device if fused else "cpu")
            state |= {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
    first, second, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
    by(
        params, grads, first, second, [], steps,
        fused=fused or None, has_complex=any(map(torch.is_complex, params)), amsgrad=False, maximize=False,
        lr=lr, beta1=c.beta1, beta2=c.beta2, eps=c.eps, weight_decay=c.weight_decay,
    )  # fmt: skip


def _clipup(
    params: list[Tensor], grads: list[Tensor], states: list[State], c: OptimConfig, lr: float, fused: bool
) -> None:  # fmt: skip
    """Normalise the gradient, with momentum and a speed limit (Toklu et al. 2020, arXiv 2008.02387, algorithm 1).

    v ← momentum·v + lr·g/‖g‖; then ‖v‖ is clipped to `max_speed` and theta ← theta + v. Norms are over all parameters.
    With weight decay, g is replaced by g − weight_decay·theta. If g is zero, only the momentum remains.
    """
    max_speed = 2 * lr if c.max_speed is None else c.max_speed
    grads = [grad + c.weight_decay * p for p, grad in zip(params, grads, strict=True)]
    norm = _norm(grads)
    for p, grad, state in zip(params, grads, states, strict=True):
        velocity = state.setdefault("velocity", torch.zeros_like(p))
        velocity.mul_(c.momentum)
        if norm > 0:
            velocity.sub_(grad * (lr / norm))
    speed = _norm(state["velocity"] for state in states)
    for p, state in zip(params, states, strict=True):
        if speed > max_speed:
            state["velocity"].mul_(max_speed / speed)
        p.add_(state["velocity"])


def _norm(tensors: Iterable[Tensor]) -> float:
    return float(torch.stack([t.double().square().sum() for t in tensors]).sum().sqrt())


def _of_class(
    kind: Any, params: list[Tensor], grads: list[Tensor], states: list[State], c: OptimConfig, lr: float, fused: bool
) -> None:  # fmt: skip
    """Step by a class of torch.optim, of which only the learning rate is set."""
    optimizer = kind(params, lr=lr)
    for p, grad, state in zip(params, grads, states, strict=True):
        p.grad = grad
        optimizer.state[p].update(state)
    optimizer.step()
    for p, state in zip(params, states, strict=True):
        p.grad = None
        state.update(optimizer.state[p])


OPTIMIZERS: dict[str, Rule] = {"sgd": _sgd, "adam": _adam, "adamw": partial(_adam, by=adamw), "clipup": _clipup}


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


def _rule(name: str) -> Rule:
    if not name.startswith(TORCH):
        return lookup(OPTIMIZERS, name, "optim.name")
    return partial(_of_class, getattr(torch.optim, name.removeprefix(TORCH)))


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
        self._theta, self._states = dict(theta), {name: State() for name in theta}
        for key, value in state.items():
            name, entry = key.rsplit("/", 1)
            self._states[name][entry] = value.clone()
        self._step = partial(_rule(config.name), c=config, lr=lr, fused=fused)

    @torch.no_grad()
    def step(self, update: Named) -> None:
        """Take one ascent step along `update`."""
        grads = [-update[name] for name in self._theta]  # a rule descends
        self._step([*self._theta.values()], grads, [*self._states.values()])

    def state(self) -> dict[str, Tensor]:
        """Return the optimiser's state."""
        return {
            f"{name}/{entry}": value
            for name, state in self._states.items()
            for entry, value in state.items()
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

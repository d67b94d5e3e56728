"""Who acts in a rollout: observations of the simulations that run → their actions, each simulation by its own member.

Shapes: N members, k simulations a member (adjacent ones), n = N·k, O observation, A action.

An `Actor` keeps a batch for one of two ways to compute a policy, which do the same: `NumpyForward` for a `Feedforward`
policy, and `TorchForward` for any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils._pytree import tree_map

from es_rl.envs.spaces import Floats, Ints
from es_rl.members import Members, members_of
from es_rl.noise import Perturbation
from es_rl.numpy_forward import NumpyForward, chain
from es_rl.population import Population, perturb

# Finished simulations stay in the batch until this share of it runs: making it anew costs a copy of the weights.
SHRINK_BELOW = 0.75


class Forward(Protocol):
    """The policy, for a batch of simulations, all of each member."""

    def __call__(self, obs: Floats) -> NDArray[Any]:
        """Observations (n, O) → actions (n, A), or (n,) integers."""

    def keep(self, rows: Ints, members: Ints) -> None:
        """From now on the batch are those at these positions only, which belong to the members at those."""


class Actor:
    """Acts in n simulations as long as they run."""

    def __init__(self, forward: Forward, n: int, k: int = 1) -> None:
        self._forward, self._k = forward, k
        self._rows = np.arange(n)  # simulations in the batch
        self._inputs: Floats | None = None  # their newest observations; finished ones keep their last
        self._at: Ints = self._rows  # where in the batch those stand that run

    def __call__(self, running: Ints, obs: Floats) -> NDArray[Any]:
        """The simulations that still run, ascending, and their observations (n, O) → their actions."""
        if len(running) != len(self._at):
            self._at = np.searchsorted(self._rows, running)
            if len(running) < SHRINK_BELOW * len(self._rows):
                self._shrink()
            # A copy, since the last observations of all belong to whoever gave them.
            shape = (len(self._rows), obs.shape[1])
            self._inputs = np.zeros(shape) if self._inputs is None else self._inputs.copy()
        if len(running) == len(self._rows):
            self._inputs = obs
            return self._forward(obs)
        assert self._inputs is not None
        self._inputs[self._at] = obs
        return self._forward(self._inputs)[self._at]

    def _shrink(self) -> None:
        """Keep the members of which a simulation runs."""
        members = np.unique(self._at // self._k)
        kept = (members[:, None] * self._k + np.arange(self._k)).reshape(-1)
        self._forward.keep(kept, members)
        self._rows, self._at = self._rows[kept], np.searchsorted(kept, self._at)
        if self._inputs is not None:
            self._inputs = self._inputs[kept]


@contextmanager
def member_actors(
    policy: nn.Module, members: Sequence[int], p: Perturbation, k: int = 1
) -> Iterator[Callable[[], Actor]]:
    """Makes actors for the perturbed `members`, each in `k` adjacent simulations; every actor begins anew."""
    n = len(members)
    if (layers := _numpy_layers(policy)) is not None:
        weights = members_of(policy, members, p)
        yield lambda: Actor(NumpyForward(layers, weights, n), n * k, k)
        return
    with perturb(policy, members, p) as population:
        yield lambda: Actor(TorchForward(policy, population, n), n * k, k)


def policy_actor(policy: nn.Module, n: int) -> Actor:
    """The actor of the unperturbed policy in n simulations."""
    if (layers := _numpy_layers(policy)) is not None:
        weights: dict[str, Members] = {name: value.detach()[None] for name, value in policy.named_parameters()}
        return Actor(NumpyForward(layers, weights), n)
    return Actor(TorchForward(policy), n)


def _numpy_layers(policy: nn.Module) -> dict[str, nn.Module] | None:
    return chain(policy) if _device(policy).type == "cpu" else None


def _device(policy: nn.Module) -> torch.device:
    return next(policy.parameters()).device


class TorchForward:
    """The policy itself, with its memory, a row a simulation."""

    def __init__(self, policy: nn.Module, population: Population | None = None, members: int = 1) -> None:
        self._policy, self._population, self._members = policy, population, np.arange(members)
        self._state: Any = None
        self._device = _device(policy)
        self._pinned: torch.Tensor | None = None  # on the way to a GPU
        if population is not None:
            population.select(self._members)

    def __call__(self, obs: Floats) -> NDArray[Any]:
        with torch.inference_mode():
            actions, self._state = self._policy(self._upload(torch.from_numpy(obs)), self._state)
            result: NDArray[Any] = actions.cpu().numpy()  # on a GPU the only wait of a step
        return result

    def _upload(self, obs: torch.Tensor) -> torch.Tensor:
        if self._device.type == "cpu":
            return obs
        if self._pinned is None or len(self._pinned) < len(obs):
            self._pinned = torch.empty_like(obs, pin_memory=True)
        staged = self._pinned[: len(obs)]
        return staged.copy_(obs).to(self._device, non_blocking=True)

    def keep(self, rows: Ints, members: Ints) -> None:
        self._state = tree_map(
            lambda part: part[rows] if isinstance(part, torch.Tensor) and part.ndim else part, self._state
        )
        if self._population is not None:
            self._members = self._members[members]
            self._population.select(self._members)

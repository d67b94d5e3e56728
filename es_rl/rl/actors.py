"""Actors choose the actions in a rollout: observations → actions, each simulation with the weights of its member.

Shapes: N members, k adjacent simulations per member, n running simulations, O observation, A action.

There are two actors: `NumpyForward` for feedforward and recurrent policies on the CPU, whose actions do not depend on
the rest of the batch, and `TorchForward` for all others.
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
from es_rl.noise import Perturbation
from es_rl.population.forward import Population, perturb
from es_rl.population.members import members_of
from es_rl.rl.compaction import Compaction
from es_rl.rl.numpy_policy import NumpyForward, chain

# Shrink torch's batch when less than this share of it still runs. Not sooner: shrinking copies the weights.
SHRINK_BELOW = 0.75


class Actor(Protocol):
    """Chooses actions for the running simulations, one row for each."""

    def __call__(self, running: Ints, obs: Floats) -> NDArray[Any]:
        """Return actions (n, A), or (n,) integers, for observations of the simulations `running` (n,).

        Observations are (n, O) float64, or bytes if they have images: see `es_rl.observations`.
        """

    def drop(self, gaps: Compaction) -> None:
        """Remove the rows of finished simulations."""


@contextmanager
def member_actors(
    policy: nn.Module, members: Sequence[int], p: Perturbation, k: int = 1
) -> Iterator[Callable[[], Actor]]:
    """Yield a function that makes fresh actors for perturbed `members`, `k` adjacent simulations each."""
    n = len(members)
    if (layers := numpy_layers(policy)) is not None:
        weights = members_of(policy, members, p)

        def begin() -> Actor:
            forward = NumpyForward(layers, n * k)
            forward.join(weights, k)
            return forward

        yield begin
        return
    with perturb(policy, members, p) as population:
        yield lambda: TorchForward(policy, n * k, population, k)


def policy_actor(policy: nn.Module, n: int) -> Actor:
    """Return an actor of the unperturbed policy for n simulations."""
    if (layers := numpy_layers(policy)) is not None:
        return NumpyForward(layers)
    return TorchForward(policy, n)


def numpy_layers(policy: nn.Module) -> dict[str, nn.Module] | None:
    """Return the layers of a policy that NumPy can compute, or None if torch must compute it."""
    return chain(policy) if _device(policy).type == "cpu" else None


def _device(policy: nn.Module) -> torch.device:
    return next(policy.parameters()).device


class TorchForward:
    """Runs the policy in torch and keeps its memory: one row per simulation, n in all, k per member of a population."""

    def __init__(self, policy: nn.Module, n: int, population: Population | None = None, k: int = 1) -> None:
        self._policy, self._population, self._k = policy, population, k
        self._members = np.arange(n // k)
        self._at: Ints = np.arange(n)  # batch rows of the running simulations
        self._inputs: NDArray[Any] | None = None  # latest observation of each batch row
        self._size = n  # rows of the batch
        self._state: Any = None
        self._device = _device(policy)
        self._pinned: torch.Tensor | None = None  # staging buffer for copies to a GPU
        if population is not None:
            population.select(self._members)

    def __call__(self, running: Ints, obs: Floats) -> NDArray[Any]:
        if self._inputs is None:
            self._inputs = np.zeros((self._size, *obs.shape[1:]), obs.dtype)
        self._inputs[self._at] = obs
        with torch.inference_mode():
            actions, self._state = self._policy(self._upload(torch.from_numpy(self._inputs)), self._state)
            result: NDArray[Any] = actions.cpu().numpy()  # on a GPU, the only synchronisation of a step
        return result[self._at]

    def drop(self, gaps: Compaction) -> None:
        self._at = gaps.apply(self._at)
        if self._at.size and len(self._at) < SHRINK_BELOW * self._size:
            self._shrink()

    def _shrink(self) -> None:
        """Keep only members that still have a running simulation."""
        members = np.unique(self._at // self._k)
        kept = (members[:, None] * self._k + np.arange(self._k)).reshape(-1)
        self._at, self._size = np.searchsorted(kept, self._at), len(kept)
        if self._inputs is not None:
            self._inputs = self._inputs[kept]
        self._state = tree_map(
            lambda part: part[kept] if isinstance(part, torch.Tensor) and part.ndim else part, self._state
        )
        if self._population is not None:
            self._members = self._members[members]
            self._population.select(self._members)

    def _upload(self, obs: torch.Tensor) -> torch.Tensor:
        if self._device.type == "cpu":
            return obs
        if self._pinned is None or len(self._pinned) < len(obs):
            self._pinned = torch.empty_like(obs, pin_memory=True)
        staged = self._pinned[: len(obs)]
        return staged.copy_(obs).to(self._device, non_blocking=True)

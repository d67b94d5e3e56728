"""The critic: a network that predicts the discounted rewards to come, and the advantages of steps that follow from it.

Shapes: T steps, N simulations, O observation, n = T·N recorded steps.

Unlike the policy, the critic is trained by gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from es_rl.envs.spaces import Bools, Floats
from es_rl.es.config import OptimConfig
from es_rl.es.optim import Ascent, entries
from es_rl.rl.segments.config import CriticConfig
from es_rl.rng import integer_seed, stream

ADAM = OptimConfig(name="adam")
REWARD_DECAY = 0.99  # of the running return whose root mean square scales rewards
TINY = 1e-8

Arrays = dict[str, NDArray[Any]]


def network(inputs: int, config: CriticConfig) -> nn.Sequential:
    """Return the critic: observations (n, O) → predictions (n, 1)."""
    widths = [inputs, *config.hidden]
    hidden = [part for i, o in pairwise(widths) for part in (nn.Linear(i, o), nn.Tanh())]
    return nn.Sequential(*hidden, nn.Linear(widths[-1], 1))


@dataclass(frozen=True)
class Critic:
    """The weights of a critic, and the state of its optimiser, both by name."""

    weights: Arrays
    optim: Arrays

    @classmethod
    def fresh(cls, inputs: int, config: CriticConfig, seed: int, generation: int) -> Critic:
        """Return a new critic, before its first step."""
        with torch.random.fork_rng(devices=[]):  # torch's initialisers draw from its global generator
            torch.manual_seed(integer_seed(seed, "critic", generation, 1))
            weights = {name: p.detach().numpy() for name, p in network(inputs, config).named_parameters()}
        return cls(weights, zero_state(weights, ADAM))

    @property
    def sound(self) -> bool:
        """True if all of its numbers are finite."""
        return all(bool(np.isfinite(value).all()) for part in (self.weights, self.optim) for value in part.values())

    def load(self, config: CriticConfig) -> nn.Sequential:
        """Return the network with these weights."""
        loaded = network(self.weights["0.weight"].shape[1], config)
        loaded.load_state_dict({name: torch.tensor(value) for name, value in self.weights.items()})
        return loaded

    def predict(self, x: NDArray[np.float32], config: CriticConfig) -> Floats:
        """Return the predictions for normalised observations (…, O): (…)."""
        with torch.inference_mode():
            found: Floats = self.load(config)(torch.tensor(x))[..., 0].double().numpy()
        return found


def zero_state(weights: Mapping[str, NDArray[Any]], config: OptimConfig) -> Arrays:
    """Return an optimiser's state, all zeros: it acts like none at all."""
    return {
        f"{name}/{entry}": np.zeros(() if like.ndim == 0 else value.shape, np.float32)
        for name, value in weights.items()
        for entry, like in entries(config).items()
    }


def advantages(reward: Floats, value: Floats, after: Floats, over: Bools, *, discount: float, gae: float) -> Floats:
    """Return the advantage of each step, (T, N) (GAE: Schulman et al. 2016, arXiv 1506.02438, equation 16).

    `value` (T, N) is predicted before a step, `after` (T, N) after it: 0 if the episode terminated. Where an episode is
    `over` (T, N), no later step counts.
    """
    error = reward + discount * after - value
    found, later = np.empty_like(error), np.zeros(error.shape[1])
    for t in reversed(range(len(error))):
        later = error[t] + discount * gae * later * ~over[t]
        found[t] = later
    return found


def explained_variance(value: Floats, target: Floats) -> float | None:
    """Return 1 − Var(target − value)/Var(target): 1 for a perfect critic, 0 for one that knows the mean only."""
    variance = float(target.var())
    return 1 - float((target - value).var()) / variance if variance > 0 else None


@dataclass(frozen=True)
class CriticFit:
    """The job of training a critic on the steps of a generation."""

    generation: int
    critic: Critic
    x: NDArray[np.float32]  # (n, O) normalised observations
    targets: NDArray[np.float32]  # (n,) what it should have predicted

    def __call__(self, config: CriticConfig, seed: int, beat: Callable[[int], None]) -> Critic:
        """Return the trained critic."""
        critic = self.critic.load(config)
        named = dict(critic.named_parameters())
        state = {name: torch.tensor(value) for name, value in self.critic.optim.items()}
        ascent = Ascent(named, state, config=ADAM, lr=config.lr, fused=True)
        x, targets = torch.tensor(self.x), torch.tensor(self.targets)
        for rows in batches(stream(seed, "critic", self.generation), len(x), config.epochs, config.batch):
            loss = (critic(x.index_select(0, rows))[:, 0] - targets.index_select(0, rows)).square().mean()
            grads = torch.autograd.grad(loss, [*named.values()])
            ascent.step({name: -grad for name, grad in zip(named, grads, strict=True)})
            beat(0)
        optim = {name: value.numpy() for name, value in ascent.state().items()}
        return Critic({name: value.detach().numpy() for name, value in named.items()}, optim)


def batches(noise: np.random.Generator, rows: int, epochs: int, size: int) -> Iterator[Tensor]:
    """Yield the rows of each batch, all rows once in each epoch, in random order. Batches have about the size."""
    for _ in range(epochs):
        yield from torch.from_numpy(noise.permutation(rows)).tensor_split(max(1, rows // size))


@dataclass(frozen=True)
class RewardScale:
    """Divides rewards by the root mean square of their running discounted sum, so that targets are of size one."""

    running: Floats  # (N,) discounted rewards of the current episodes
    count: float
    variance: float

    @classmethod
    def fresh(cls, simulations: int) -> RewardScale:
        """Return the scale before the first reward: 1."""
        return cls(np.zeros(simulations), 1e-4, 1.0)

    def after(self, reward: Floats, over: Bools) -> RewardScale:
        """Return the scale after the rewards (T, N) of a generation."""
        running, count, variance = self.running.copy(), self.count, self.variance
        for now, ended in zip(reward, over, strict=True):
            running = running * REWARD_DECAY + now
            count += len(now)
            variance += (float(np.square(running).sum()) - len(now) * variance) / count
            running[ended] = 0.0
        return RewardScale(running, count, variance)

    @property
    def divisor(self) -> float:
        return float(np.sqrt(self.variance + TINY))

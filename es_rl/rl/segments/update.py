"""Move a policy by the recorded steps of a generation.

Shapes: n recorded steps, O observation, A outputs of the policy.

A step's score is its advantage, weighted by how much likelier the step has become since it was played, and clipped as
in PPO (Schulman et al. 2017, arXiv 1707.06347, equation 7). How this score changes with the outputs is known, since the
density of the noise on outputs is. How outputs change with theta is found by perturbing theta: see `population.credit`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from es_rl.es.optim import Ascent
from es_rl.population.credit import Credit
from es_rl.rl.segments.config import CreditConfig
from es_rl.rl.segments.critic import TINY, batches
from es_rl.rl.segments.state import LOG_STD


class Tanh(nn.Module):
    """tanh(x) = 2/(1 + exp(−2x)) − 1 by torch's sigmoid, which takes less than half the time of its tanh on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return (2 * x).sigmoid_().mul_(2).sub_(1)


def quickened(network: nn.Module) -> nn.Module:
    """Return a network with the same parameters whose tanh takes less time. It differs by rounding alone."""
    if isinstance(network, nn.Tanh):
        return Tanh()
    if type(network) is nn.Sequential:  # not `named_children`: it tells a part that stands in two places only once
        return nn.Sequential(OrderedDict((name, quickened(part)) for name, part in network._modules.items()))
    return network


@dataclass(frozen=True)
class Steps:
    """Recorded steps of all simulations."""

    x: Tensor  # (n, O) normalised observations
    outputs: Tensor  # (n, A) with noise
    log_likelihood: Tensor  # (n,) when they were played, but for a constant
    advantages: Tensor  # (n,)


@dataclass
class Surrogate:
    """The score of a batch of steps as a function of the policy's outputs."""

    batch: Steps
    log_std: Tensor  # (A,) logarithm of the standard deviation of the noise on outputs
    clip: float
    along_log_std: Tensor = field(init=False)  # (A,) how the mean score changes with `log_std`
    clipped: float = field(init=False)  # share of the steps whose score is constant

    def slopes(self, outputs: Tensor) -> Tensor:
        """Return how each step's score changes with the outputs (n, A) of the policy without noise."""
        far = (self.batch.outputs - outputs) / self.log_std.exp()
        ratio = (-0.5 * far.square().sum(1) - self.log_std.sum() - self.batch.log_likelihood).exp()
        advantages = self.batch.advantages
        advantages = (advantages - advantages.mean()) / (advantages.std() + TINY)
        rises, falls = (advantages > 0) & (ratio > 1 + self.clip), (advantages < 0) & (ratio < 1 - self.clip)
        weight = torch.where(rises | falls, 0.0, ratio * advantages)[:, None]
        self.along_log_std = (weight * (far.square() - 1)).mean(0)
        self.clipped = float((rises | falls).float().mean())
        return weight * far / self.log_std.exp()


def of_length_one(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return estimates that have length 1 together, so that no batch counts more than another.

    PPO is often trained so in effect: its gradients are cut to a length of 0.5, and most are longer.
    """
    length = torch.stack([value.square().sum() for value in found.values()]).sum().sqrt().clamp_(min=TINY)
    return {name: value / length for name, value in found.items()}


@dataclass
class Update:
    """The update of one generation, batch by batch: iterate over `batches`.

    `ascent` moves the parameters of `network` and `log_std` in place.
    """

    network: nn.Module
    log_std: Tensor  # (A,)
    ascent: Ascent
    config: CreditConfig
    sigma: float
    halves: list[dict[str, Tensor]] = field(default_factory=lambda: [{}, {}])  # sums of estimates, of the first epoch
    clipped: list[float] = field(default_factory=list)  # of each batch
    members: int = 0  # of all recorded steps

    def batches(self, steps: Steps, noise: np.random.Generator) -> Iterator[None]:
        """Move the policy by one batch after another."""
        credit, rows = Credit(self.network), len(steps.x)
        credit.measure(steps.x, sigma=self.sigma, noise=noise)
        self.members = rows * credit.members
        first_epoch = max(1, rows // self.config.batch)
        for i, chosen in enumerate(batches(noise, rows, self.config.epochs, self.config.batch)):
            batch = Steps(*(part.index_select(0, chosen) for part in vars(steps).values()))
            surrogate = Surrogate(batch, self.log_std, self.config.clip)
            found = credit.estimate(batch.x, surrogate.slopes, sigma=self.sigma, noise=noise)
            if i < first_epoch:
                half = self.halves[i % 2]
                self.halves[i % 2] = {name: half.get(name, 0) + value for name, value in found.items()}
            self.clipped.append(surrogate.clipped)
            self.ascent.step(of_length_one(found | {LOG_STD: surrogate.along_log_std}))
            yield

    def metrics(self) -> dict[str, Any]:
        """Return statistics for the log."""
        shares = {"gradient/agreement": self._agreement(), "steps/clipped": float(np.mean(self.clipped))}
        return {"members": self.members} | shares

    def _agreement(self) -> float | None:
        """Return the cosine between the sums of every other batch's estimates: 0 for noise; None for a single batch."""
        one, two = self.halves
        if not one or not two:
            return None
        product = sum(float((one[name] * two[name]).sum()) for name in one)
        lengths = [sum(float(value.square().sum()) for value in half.values()) ** 0.5 for half in self.halves]
        return product / (lengths[0] * lengths[1]) if all(lengths) else 0.0

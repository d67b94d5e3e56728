"""Constructors with the argument names of the package eggroll-trainer, for code written for it.

The same numbers take the same expected step. There, theta moves by `learning_rate` times the mean of the members'
perturbations, weighted by their z-scores (with the unbiased standard deviation): perturbations include sigma in
EGGROLLTrainer and do not in VanillaESTrainer. Here, sgd moves theta by lr times an estimate of the gradient, which
contains 1/sigma. So lr is `learning_rate` times sigma squared, or times sigma.

Differences: `seed` is respected, and callbacks are called. Populations are antithetic, so they must be even. Kernels of
convolutions are perturbed with low rank too. `train` and `history` give the records of `Trainer`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from es_rl.errors import ConfigError
from es_rl.trainer.callbacks import Print
from es_rl.trainer.settings import optimizer_name
from es_rl.trainer.trainer import Record, Trainer


class MovedTrainer(Trainer):
    """A `Trainer` that also has the method names of that package."""

    def train(self, generations: int = 0, *, num_generations: int = 0, verbose: bool = False) -> list[Record]:
        """Run this many generations; with `verbose`, print a line at most once a second."""
        lines = [Print(1.0)] if verbose else []
        self.callbacks += lines
        try:
            return super().train(generations or num_generations)
        finally:
            self.callbacks = [each for each in self.callbacks if each not in lines]

    @property
    def best_fitness(self) -> float:
        """Fitness of the best member; −∞ before there is one."""
        return -math.inf if self.best is None else self.best.fitness

    def get_best_model(self) -> nn.Module:
        """Return a copy of the model with the best member's weights, or with theta before there is one."""
        model = copy.deepcopy(self.model)
        if self.best is not None:
            model.load_state_dict(self.best.state_dict)
        return model


def VanillaESTrainer(  # noqa: N802 - the name that the code which moves over uses
    params: Iterable[Any] | None = None,
    model: nn.Module | None = None,
    fitness_fn: Callable[..., Any] | None = None,
    population_size: int = 50,
    learning_rate: float = 0.01,
    sigma: float = 0.1,
    device: Any = None,
    seed: int | None = None,
    **options: Any,
) -> MovedTrainer:
    """Return a trainer with dense perturbations, z-scored fitness and plain gradient ascent.

    Only `params` are trained; default: the model's.
    """
    more = {"noise": "dense", **options}
    return _trainer(params, model, fitness_fn, population_size, learning_rate, sigma, sigma, device, seed, more)


def EGGROLLTrainer(  # noqa: N802
    params: Iterable[Any] | None = None,
    model: nn.Module | None = None,
    fitness_fn: Callable[..., Any] | None = None,
    population_size: int = 256,
    learning_rate: float = 0.01,
    sigma: float = 0.1,
    rank: int = 1,
    noise_reuse: int = 0,
    group_size: int = 0,
    freeze_nonlora: bool = False,
    device: Any = None,
    seed: int | None = None,
    **options: Any,
) -> MovedTrainer:
    """Return a trainer with low-rank perturbations of matrices, and dense ones of vectors unless `freeze_nonlora`.

    `noise_reuse` generations share their noise; 0 and 1: fresh noise in each. `group_size` has no effect here: a
    group's mean would be subtracted from both members of a pair, and only their difference counts.
    """
    more = {"noise": "lowrank", "rank": rank, "noise_reuse": max(1, noise_reuse), "freeze_vectors": freeze_nonlora}
    more |= options
    return _trainer(params, model, fitness_fn, population_size, learning_rate, sigma, sigma**2, device, seed, more)


def _flat(params: Iterable[Any]) -> Iterator[nn.Parameter]:
    """Yield parameters that are given as torch's optimisers take them: alone, in groups, or with names."""
    for value in params:
        if isinstance(value, Mapping):
            yield from _flat(value["params"])
        else:
            yield value[1] if isinstance(value, tuple) else value


def _trainer(
    params: Iterable[Any] | None,
    model: nn.Module | None,
    fitness_fn: Callable[..., Any] | None,
    population_size: int,
    learning_rate: float,
    sigma: float,
    scale: float,
    device: Any,
    seed: int | None,
    options: dict[str, Any],
) -> MovedTrainer:
    if model is None or fitness_fn is None:
        raise ConfigError("model and fitness_fn are needed: give both.")
    if device is not None:
        model.to(device)
    if params is not None:
        moving = {id(value) for value in _flat(params)}
        for value in model.parameters():
            value.requires_grad_(id(value) in moving)
    given = {"optimizer": "sgd", "momentum": 0.0, "shaping": "zscore", **options}
    lr = learning_rate
    if optimizer_name(given["optimizer"]) == "sgd":
        lr *= scale
        if given["shaping"] == "zscore" and population_size > 1:  # ours divides by the biased standard deviation
            lr *= math.sqrt(1 - 1 / population_size)
    seed = 0 if seed is None else seed
    return MovedTrainer(model, fitness_fn, population=population_size, lr=lr, sigma=sigma, seed=seed, **given)

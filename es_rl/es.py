"""The evolution strategy: ask for the members of a generation, tell their fitness, get the next state. Pure.

Antithetic evolution strategy (Salimans et al. 2017, algorithm 2) with any perturbation, shaping and optimiser; with
`top` pairs and z-scores it is ARS (Mania et al. 2018, algorithm 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from es_rl import optim
from es_rl.config import Config, EsConfig, OptimConfig
from es_rl.noise import Perturbation, check_rank, estimate, moves
from es_rl.shaping import utilities

SMALLEST = 14  # simulations of a part of a chunk


@dataclass(frozen=True)
class ESParams:
    """What stays fixed during a run."""

    es: EsConfig
    optim: OptimConfig
    seed: int
    chunk: int  # members of a chunk, even

    @classmethod
    def of(cls, config: Config) -> ESParams:
        """Those of a resolved configuration."""
        assert config.chunk is not None
        return cls(config.es, config.optim, config.seed, config.chunk)


@dataclass(frozen=True)
class ESState:
    """What moves: exactly what a checkpoint holds of the strategy. A generation is a pure function of it."""

    generation: int  # generations told so far
    theta: dict[str, Tensor]  # mean parameters, by name
    buffers: dict[str, Tensor]  # of the policy: the observation statistics
    optim: dict[str, Tensor]  # the optimiser's, by parameter/entry


@dataclass(frozen=True)
class Told:
    """What one update did, for the log."""

    update_norm: float  # ‖theta' − theta‖
    gradient_norm: float  # of the estimate
    failed: int  # members
    flat: bool  # all utilities equal: nothing could be learnt


def init(module: nn.Module) -> ESState:
    """The state before the first generation: a module's parameters and buffers as they are."""
    theta = {name: value.detach().clone() for name, value in module.named_parameters()}
    buffers = {name: value.clone() for name, value in module.state_dict().items() if name not in theta}
    return ESState(0, theta, buffers, {})


def check(params: ESParams, state: ESState) -> None:
    """Refuse perturbations that these parameters cannot have. Raises `ConfigError`."""
    check_rank({name: tuple(value.shape) for name, value in state.theta.items()}, perturbation(params, 0))


def perturbation(params: ESParams, generation: int) -> Perturbation:
    """The noise of a generation."""
    es = params.es
    return Perturbation(
        kind=es.noise,
        sigma=es.sigma * es.sigma_decay**generation,
        seed=params.seed,
        generation=generation // es.noise_reuse,
        block=params.chunk // 2,
        rank=es.rank,
        freeze_vectors=es.freeze_vectors,
    )


def ask(params: ESParams, state: ESState) -> tuple[Perturbation, list[range]]:
    """The noise of the coming generation and the members of each chunk, the last ones in smaller parts.

    So no worker waits long for another at the end of a generation, whatever their number.
    """
    size, population = params.chunk, params.es.population
    chunks = [range(first, min(first + size, population)) for first in range(0, population, size)]
    last = [part for c, n in zip(chunks[-2:], (2, 4), strict=False) for part in _parts(c, n, params.es.episodes)]
    return perturbation(params, state.generation), chunks[:-2] + last


def _parts(members: range, wanted: int, episodes: int) -> list[range]:
    """Up to so many parts, of whole pairs, none of fewer simulations than are worth a step of their own."""
    count = max(1, min(wanted, len(members) * episodes // SMALLEST))
    size = 2 * -(-len(members) // (2 * count))
    return [members[first : first + size] for first in range(0, len(members), size)]


def tell(
    params: ESParams, state: ESState, fitness: NDArray[np.float64], buffers: Mapping[str, Tensor]
) -> tuple[ESState, Told]:
    """The state after a generation, given the fitness (M,) of its members and the policy's new buffers.

    NaN and ±inf mark failed members, which are judged worst. Equal fitness everywhere is a zero update: theta and the
    optimiser stay as they were.
    """
    es = params.es
    used, pairs = utilities(fitness, shaping=es.shaping, top=es.top or es.population // 2)
    differences = (used[0::2] - used[1::2])[pairs]  # (top,)
    flat = not differences.any()
    theta, optim_state, gradient_norm = dict(state.theta), dict(state.optim), 0.0
    if not flat:
        p = perturbation(params, state.generation)
        shapes = {name: tuple(value.shape) for name, value in theta.items()}
        drawn = estimate(shapes, [int(pair) for pair in pairs], differences, p)
        update = {name: torch.from_numpy(value) for name, value in drawn.items() if moves(shapes[name], p)}
        gradient_norm = _norm(update)
        lr = params.optim.lr * params.optim.lr_decay**state.generation
        moving = {name: theta[name] for name in update}
        moved, optim_state = optim.step(moving, update, optim_state, config=params.optim, lr=lr)
        theta |= moved
    change = {name: theta[name] - state.theta[name] for name in theta}
    told = Told(_norm(change), gradient_norm, int((~np.isfinite(fitness)).sum()), flat)
    return ESState(state.generation + 1, theta, dict(buffers), optim_state), told


def _norm(values: Mapping[str, Tensor]) -> float:
    return float(sum(float(value.double().square().sum()) for value in values.values()) ** 0.5)

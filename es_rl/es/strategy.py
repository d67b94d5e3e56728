"""The evolution strategy: ask for the members of a generation, tell their fitness, get the next state. Pure functions.

This is the antithetic evolution strategy (Salimans et al. 2017, algorithm 2) with any perturbation, shaping and
optimiser. With `top` pairs and z-scores it is ARS (Mania et al. 2018, algorithm 2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from es_rl.errors import TrainingError
from es_rl.es import optim
from es_rl.es.config import EsConfig, OptimConfig
from es_rl.es.diagnostics import UpdateStats, effective_rank, norm
from es_rl.es.shaping import utilities
from es_rl.noise import Perturbation, Shapes, check_rank, estimate

MAX_LIMIT = 10**9  # episodes are not cut off any more once es.limit has grown by this factor
GROWTH = 16  # default of es.population_max, as a multiple of es.population


@dataclass(frozen=True)
class ESParams:
    """Settings that stay fixed during a run."""

    es: EsConfig
    optim: OptimConfig
    seed: int
    chunk: int  # members of a chunk; even
    frozen: frozenset[str] = frozenset()  # names of parameters that are not trained

    @classmethod
    def of(cls, config: Any) -> ESParams:
        """Return the settings of a resolved configuration of any kind of training."""
        assert config.chunk is not None
        return cls(config.es, config.optim, config.seed, config.chunk)


@dataclass(frozen=True)
class ESState:
    """The changing state of the strategy, exactly as a checkpoint holds it. A generation is a pure function of it."""

    generation: int  # number of finished generations
    theta: dict[str, Tensor]  # mean parameters, by name
    buffers: dict[str, Tensor]  # buffers of the policy: the observation statistics
    optim: dict[str, Tensor]  # state of the optimiser, by parameter/entry
    extra: dict[str, Tensor] = field(default_factory=dict)  # what a kind of training needs besides


@dataclass(frozen=True)
class MemberScores:
    """Results of the members of a generation."""

    fitness: NDArray[np.float64]  # (M,); NaN: failed
    buffers: dict[str, Tensor]  # buffers of the policy, updated by this generation's observations
    steps: int  # environment steps, or tokens
    metrics: dict[str, Any]  # for the log
    extra: dict[str, Tensor] = field(default_factory=dict)  # what the state holds besides from now on


def init(module: nn.Module) -> ESState:
    """Return the state before the first generation: a module's current parameters and persistent buffers."""
    whole = torch.contiguous_format  # whatever the memory layout of the module's tensors
    theta = {name: value.detach().clone(memory_format=whole) for name, value in module.named_parameters()}
    kept = module.state_dict().keys()
    buffers = {name: value.clone(memory_format=whole) for name, value in module.named_buffers() if name in kept}
    return ESState(0, theta, buffers, {})


def arrays(state: ESState) -> dict[str, NDArray[Any]]:
    """Return parameters and buffers by name, as they are sent to workers, without a copy."""
    return {name: value.numpy() for name, value in {**state.theta, **state.buffers}.items()}


def check(params: ESParams, state: ESState) -> None:
    """Raise `ConfigError` for perturbations that these parameters cannot have."""
    check_rank({name: tuple(value.shape) for name, value in state.theta.items()}, perturbation(params, 0))


def perturbation(params: ESParams, generation: int) -> Perturbation:
    """Return the noise of a generation."""
    es = params.es
    return Perturbation(
        kind=es.noise,
        sigma=es.sigma * es.sigma_decay**generation,
        seed=params.seed,
        generation=generation // es.noise_reuse,
        block=params.chunk // 2,
        rank=es.rank,
        freeze_vectors=es.freeze_vectors,
        frozen=params.frozen,
    )


def limit(params: ESParams, generation: int) -> int | None:
    """Return the number of steps after which a generation's episodes are cut off, or None for no limit.

    With short episodes, the policy learns the beginning many times before it plays whole episodes.
    """
    es = params.es
    if es.limit is None or generation * math.log(es.limit_growth) > math.log(MAX_LIMIT):
        return None
    return int(es.limit * es.limit_growth**generation)


def ask(params: ESParams, state: ESState) -> tuple[Perturbation, list[range]]:
    """Return the noise of the next generation and the members of each chunk."""
    return perturbation(params, state.generation), _chunks(params, 0, params.es.population)


def grow(params: ESParams, members: int, steps: int) -> list[range]:
    """Return the chunks of further members, after the first `members` took `steps` environment steps in all.

    While episodes are short, more members give more information in the same time (Toklu et al. 2020, section 4).
    """
    es = params.es
    if es.steps is None or steps >= es.steps:
        return []
    most = GROWTH * es.population if es.population_max is None else es.population_max
    wanted = min(most, members * es.steps // max(1, steps))
    return _chunks(params, members, wanted - wanted % 2)


def _chunks(params: ESParams, first: int, end: int) -> list[range]:
    """Cut members `first` to `end` − 1 into chunks; the first and the last chunk may be smaller.

    No chunk crosses a multiple of the chunk size: the directions between two multiples may be orthogonal to one
    another, and are drawn together.
    """
    starts = [first, *range(first - first % params.chunk + params.chunk, end, params.chunk)]
    return [range(i, min(j, end)) for i, j in zip(starts, [*starts[1:], end], strict=True) if i < min(j, end)]


def tell(
    params: ESParams, state: ESState, fitness: NDArray[np.float64], buffers: Mapping[str, Tensor]
) -> tuple[ESState, UpdateStats]:
    """Return the state after a generation, given the fitness (M,) of its members and the policy's new buffers.

    NaN and ±inf mark failed members, which count as the worst. Equal fitness everywhere is a zero update: theta and
    the optimiser do not change. Raises `TrainingError` if theta would become infinite.
    """
    es = params.es
    grown = len(fitness) / es.population
    top = len(fitness) // 2 if es.top is None else max(1, round(es.top * grown))
    used, pairs = utilities(fitness, shaping=es.shaping, top=top)
    differences = (used[0::2] - used[1::2])[pairs]  # (top,)
    flat = not differences.any()
    theta, optim_state, gradient_norm, agreement = dict(state.theta), dict(state.optim), 0.0, None
    if not flat:
        p = perturbation(params, state.generation)
        shapes = {name: tuple(value.shape) for name, value in theta.items()}
        drawn, agreement = _gradient(shapes, pairs, differences, p)
        update = {name: torch.from_numpy(np.asarray(value)) for name, value in drawn.items()}  # 0-d ones are scalars
        gradient_norm = norm(update)
        lr = params.optim.lr * params.optim.lr_decay**state.generation
        moving = {name: theta[name] for name in update}
        moved, optim_state = optim.step(moving, update, optim_state, config=params.optim, lr=lr)
        theta |= moved
    change = {name: theta[name] - state.theta[name] for name in theta}
    failed = int((~np.isfinite(fitness)).sum())
    if not math.isfinite(update_norm := norm(change)):
        raise TrainingError(
            f"theta is infinite after generation {state.generation + 1}: the estimate's norm is {gradient_norm:g}. "
            f"Lower optim.lr, or use a shaping that scales fitness, such as centered_ranks."
        )
    told = UpdateStats(update_norm, gradient_norm, failed, flat, agreement, effective_rank(change.values()))
    return ESState(state.generation + 1, theta, dict(buffers), optim_state), told


def _gradient(
    shapes: Shapes, pairs: NDArray[np.int64], differences: NDArray[np.float64], p: Perturbation
) -> tuple[dict[str, NDArray[np.float32]], float | None]:
    """Return the estimate, computed from two halves of the pairs, and the cosine between the halves' estimates.

    The cosine tells how much of the estimate is signal: 0 for pure noise, 1 for a population that knows the gradient.
    Directions of one block may be orthogonal to one another, so the halves share no block. If there are no two such
    halves, the cosine is None.
    """
    n, middle = len(pairs), len(pairs) // 2
    if p.kind.endswith("orthogonal"):
        middle = int(np.searchsorted(pairs, pairs[middle] // p.block * p.block))
    if middle == 0:
        return estimate(shapes, pairs.tolist(), differences, p), None
    ends = [(0, middle), (middle, n)]
    halves = [estimate(shapes, pairs[i:j].tolist(), differences[i:j], p) for i, j in ends]
    first, second = halves
    lengths = [sum(float(np.vdot(v, v)) for v in half.values()) ** 0.5 for half in halves]
    together = sum(float(np.vdot(first[name], second[name])) for name in first)
    shares = [np.float32((j - i) / n) for i, j in ends]
    total = {name: first[name] * shares[0] + second[name] * shares[1] for name in first}
    return total, together / (lengths[0] * lengths[1]) if all(lengths) else 0.0


@dataclass(frozen=True)
class Generation:
    """Data that all jobs of one generation share."""

    number: int
    model: dict[str, NDArray[Any]]  # parameters and buffers, by name
    perturbation: Perturbation
    limit: int | None = None  # steps after which members' episodes are cut off
    difficulty: float | None = None  # of the episodes, if the environment has a curriculum; None: the full one

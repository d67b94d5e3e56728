"""The settings of a `Trainer`: check its arguments, turn them into parameters, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from es_rl.config import build
from es_rl.errors import ConfigError, TrainingError, lookup
from es_rl.es.chunks import default_chunk
from es_rl.es.config import EPISODIC, EsConfig, OptimConfig, check_chunk, check_pairs, refuse_episodic
from es_rl.es.optim import OPTIMIZERS, check_optimizer
from es_rl.es.shaping import SHAPINGS
from es_rl.es.strategy import ESParams
from es_rl.keys import MOST_WORKERS
from es_rl.noise import KINDS
from es_rl.rng import MAX_SEED

Shaping = Callable[[NDArray[np.float64]], Any]  # fitness (M,) → utilities (M,)


def shaped(shaping: Shaping, fitness: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the utilities (M,) of a function of the user's, NaN for failed members, which it sees as the worst.

    Raises `TrainingError` for utilities that are not M finite numbers.
    """
    finite = np.isfinite(fitness)
    given = shaping(np.where(finite, fitness, fitness[finite].min()))
    utilities = np.array(
        given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else given, np.float64
    ).reshape(-1)
    if utilities.shape != fitness.shape or not np.isfinite(utilities).all():
        raise TrainingError(f"shaping: must return {len(fitness)} finite numbers, one for each member.")
    return np.where(finite, utilities, np.nan)


def optimizer_name(optimizer: str | type[torch.optim.Optimizer]) -> str:
    """Return the name of an optimiser that is given as a class of `torch.optim`. Raises `ConfigError` for others."""
    if isinstance(optimizer, str):
        return optimizer
    name = getattr(optimizer, "__name__", f"a {type(optimizer).__name__}")
    if getattr(torch.optim, name, None) is not optimizer:
        raise ConfigError(f"optimizer={name}: must be a name or a class of torch.optim, such as torch.optim.Adam.")
    return name.lower() if name.lower() in OPTIMIZERS else f"torch.optim.{name}"


def settings(params: ESParams) -> dict[str, Any]:
    """Return the arguments of a `Trainer` that give these parameters."""
    strategy, optim = asdict(params.es), asdict(params.optim)
    strategy = {name: value for name, value in strategy.items() if name not in EPISODIC}
    return {**strategy, "optimizer": optim.pop("name"), **optim, "seed": params.seed, "chunk": params.chunk}


def checked(
    strategy: dict[str, Any],
    optim: dict[str, Any],
    options: dict[str, Any],
    seed: int,
    chunk: int | None,
    model: nn.Module,
) -> ESParams:
    """Check the arguments of a `Trainer` and return its parameters. Raises `ConfigError`."""
    own = EsConfig.__dataclass_fields__
    refuse_episodic(options)
    more = {name: value for name, value in options.items() if name in own}
    rest = {name: value for name, value in options.items() if name not in own}
    config = build(EsConfig, [({**strategy, **more}, "")])
    lookup(KINDS, config.noise, "noise")
    lookup(SHAPINGS, config.shaping, "shaping")
    check_optimizer(optim["name"], "optimizer")
    check_pairs(config, "")
    if not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"seed={seed}: must lie between 0 and {MAX_SEED}.")
    size = default_chunk(config.population, 1) if chunk is None else chunk
    check_chunk(size)
    frozen = frozenset(name for name, value in model.named_parameters() if not value.requires_grad)
    if len(frozen) == len(list(model.named_parameters())):
        raise ConfigError("model: none of its parameters has requires_grad, so nothing could be trained.")
    return ESParams(config, build(OptimConfig, [({**optim, **rest}, "")]), seed, min(size, config.population), frozen)


def check_workers(workers: int, hang_after: float) -> None:
    """Raise `ConfigError` for impossible numbers."""
    if isinstance(workers, bool) or not isinstance(workers, Integral) or workers < 0:
        raise ConfigError(f"workers={workers}: must be a whole number, 0 for none.")
    if workers > MOST_WORKERS:
        raise ConfigError(f"workers={workers}: must be at most {MOST_WORKERS}.")
    if not hang_after > 0:
        raise ConfigError(f"hang_after={hang_after}: must be > 0.")


def _check_memory(model: nn.Module) -> None:
    """Raise `ConfigError` for parameters that share memory without being the same: a member would write one twice."""
    taken: list[tuple[int, int, str]] = []
    for name, value in model.named_parameters():
        if not value.requires_grad or value.layout != torch.strided:
            continue
        size = value.numel() * value.element_size() if value.is_contiguous() else 0
        if value.numel() > 1 and 0 in value.stride():
            raise ConfigError(f"model: {name} is expanded: its numbers share memory. Use nn.Parameter(value.clone()).")
        taken += [(value.data_ptr(), value.data_ptr() + size, name)] if size else []
    for (_, end, one), (start, _, other) in pairwise(sorted(taken)):
        if start < end:
            raise ConfigError(
                f"model: {one} and {other} share memory, but are two parameters. Tie them: let one be the other."
            )


def check_model(model: nn.Module) -> None:
    """Refuse a model from which members cannot be made. Raises `ConfigError`."""
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise ConfigError(f"model: must be a plain torch.nn.Module, and is a {type(model).__name__}.")
    if lazy := [name for name, value in model.named_parameters() if nn.parameter.is_lazy(value)]:
        raise ConfigError(f"model: {lazy[0]} has no shape yet. Call the model once before.")
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        moves = value.requires_grad and value.dtype != torch.float32
        if moves or value.dtype == torch.bfloat16 or value.device.type != "cpu":
            raise ConfigError(
                f"model: {name} is {value.dtype} on {value.device}; only float32 on the CPU can be trained. "
                f"Use model.float().cpu()."
            )
    _check_memory(model)

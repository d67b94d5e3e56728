"""The fitness of members of any module, computed one at a time or many at once, in one process.

Changes that a fitness makes to the model and to the global random generators are undone.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from es_rl.errors import FOREIGN, TrainingError, text_of
from es_rl.es.strategy import Generation
from es_rl.noise import member_weights
from es_rl.population.forward import perturb
from es_rl.population.parts import with_parts
from es_rl.rng import integer_seed


def batched(fitness: Callable[[nn.Module, int], Any]) -> Callable[[nn.Module, int], Any]:
    """Mark a fitness that scores n members at once: `fitness(model, n)` → n numbers.

    The fitness calls the model, or parts of it, such as `model.features(x)`. The first dimension of its tensors is the
    rows: k for each member, those of one member together. A tensor of another length is shared by all members.
    """
    fitness.batched = True  # type: ignore[attr-defined]
    return fitness


@dataclass(frozen=True)
class Scores:
    """Fitness of one chunk's members; NaN for those that failed."""

    fitness: NDArray[np.float64]
    failures: list[str]


class MemberFitness:
    """Computes the fitness of a chunk's members in one process."""

    def __init__(self, model: nn.Module, fitness: Callable[..., Any]) -> None:
        self._model, self._fitness = model, fitness

    def __call__(self, shared: Generation, members: range, beat: Callable[[int], None]) -> Scores:
        theta = {name: torch.from_numpy(value) for name, value in shared.model.items()}
        assign(self._model, theta)
        p = shared.perturbation
        seed = integer_seed(p.seed, "fitness", shared.number)
        if getattr(self._fitness, "batched", False):
            with (
                restored_after(self._model),
                _seeded(seed),
                perturb(self._model, members, p) as population,
                with_parts(self._model, population),
            ):
                scores = _scores(self._fitness(self._model, len(members)), len(members))
            if not population.calls:
                raise TrainingError("the fitness called neither model(…) nor a part of it, so all members are equal")
            return Scores(scores, [])
        scores, failures = np.full(len(members), np.nan), []
        for i, member in enumerate(members):
            weights = member_weights(self._model, member, p)
            try:
                with restored_after(self._model), _seeded(seed):
                    assign(self._model, weights)
                    scores[i] = _scores(self._fitness(self._model), 1)[0]
            except FOREIGN as error:  # this member has failed
                failures.append(
                    str(error) if isinstance(error, TrainingError) else f"{type(error).__name__}: {text_of(error)}"
                )
            beat(1)
        return Scores(scores, failures)


def _scores(value: Any, n: int) -> NDArray[np.float64]:
    """Return what a fitness returned as (n,) numbers. Raises `TrainingError` if that is impossible."""
    try:
        if isinstance(value, Tensor) and not value.is_complex():
            value = value.detach().cpu().double()  # NumPy has no bfloat16
        scores = np.asarray(value, np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise TrainingError(f"the fitness returned {value!r}: it must return a number for each member") from error
    if len(scores) != n:
        raise TrainingError(f"the fitness returned {len(scores)} numbers for {n} members")
    return scores


@torch.no_grad()
def assign(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Write parameters and buffers in place."""
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, value in values.items():
        own[name].copy_(value)
    torch.clear_autocast_cache()  # it holds the values of before


@contextlib.contextmanager
def restored_after(model: nn.Module) -> Iterator[None]:
    """Restore parameters, buffers, parts and train/eval mode after the block, whatever it adds, removes or converts."""
    values = {name: value.detach().clone() for name, value in (*model.named_parameters(), *model.named_buffers())}
    parameters = [(value, value.data, value.requires_grad) for value in model.parameters()]
    parts = [(part, part.training, _contents(part)) for part in model.modules()]
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training, contents in parts:
            part.training = training
            for now, before in zip(_holders(part), contents, strict=True):
                now.clear()
                now.update(before)
        for value, data, trained in parameters:
            if value.dtype != data.dtype or value.device != data.device or value.shape != data.shape:
                value.data = data
            value.requires_grad_(trained)
        assign(model, values)


def _holders(part: nn.Module) -> tuple[dict[str, Any], ...]:
    return part._parameters, part._buffers, part._modules


def _contents(part: nn.Module) -> tuple[dict[str, Any], ...]:
    return tuple(dict(held) for held in _holders(part))


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators for the block, and restore their states after it."""
    before, numpy_before = random.getstate(), np.random.get_state()  # noqa: NPY002 - the fitness may use it
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(before)
            np.random.set_state(numpy_before)  # noqa: NPY002

"""Complete prompts with a language model's members and theta, in a worker.

With low-rank noise, many members are computed in one batch of the population context. With dense noise, each member in
turn is written over the model's weights (`es_rl.llm.in_place`). theta lies in memory that all processes share. So no
weights are sent to workers, and only completions, with their distances, come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from es_rl.llm.in_place import Direction, Theta, write
from es_rl.llm.model import WEIGHTS, Completion, Language, kl, open_model
from es_rl.noise import Perturbation
from es_rl.population.forward import perturb
from es_rl.workers.processes import worker_slot
from es_rl.workers.shared_memory import Memory


@dataclass(frozen=True, eq=False)
class Copied:
    """theta itself, for workers that cannot open this machine's memory. Used like `Memory`."""

    theta: dict[str, NDArray[Any]]

    def arrays(self) -> dict[str, NDArray[Any]]:
        return self.theta


@dataclass(frozen=True)
class Round:
    """Data that all jobs of a generation or of an evaluation share."""

    number: int  # the generation
    memory: Memory | Copied  # holds theta
    perturbation: Perturbation
    prompts: list[Any]


@dataclass(frozen=True)
class Job:
    kind: str  # "members", "evaluation" of theta, or "start" for the starting model
    items: range  # members, or indices of prompts


class Completer:
    """Completes prompts in one process, as members, as theta, or as the starting model."""

    def __init__(self, start: Path, *, dtype: str, device: str, most: int, rows: int, mirrored: bool, kl: bool) -> None:
        self._start, self._dtype, self._device, self._most, self._rows = start, dtype, device, most, rows
        self._mirrored, self._kl = mirrored, kl
        self._language: Language | None = None
        self._memory: Memory | Copied | None = None
        self._theta: Theta = {}
        self._holds: int | None = None  # generation whose theta is in the model

    def __call__(self, shared: Round, job: Job, beat: Callable[[int], None]) -> Any:
        if self._language is None:
            self._language = Language(*open_model(self._start, self._dtype), self._choose())
        if shared.memory != self._memory:
            self._memory = shared.memory
            self._theta = {name: torch.from_numpy(array) for name, array in shared.memory.arrays().items()}
        if job.kind == "start":
            self._hold_start(shared)
            return self._complete(shared.prompts[job.items.start : job.items.stop], 1, beat)[0], None
        if job.kind == "evaluation":
            return self._evaluate(shared, job.items, beat)
        if shared.perturbation.kind == "dense":
            return [self._in_place(shared, member, beat) for member in job.items]
        self._hold(shared)
        with perturb(self._language.model, job.items, shared.perturbation):
            return self._complete(shared.prompts, len(job.items), beat)

    def _choose(self) -> torch.device:
        """Return the device. Workers are distributed over the GPUs."""
        if self._device == "cpu":
            return torch.device("cpu")
        return torch.device("cuda", worker_slot() % torch.cuda.device_count())

    def _hold(self, shared: Round) -> None:
        """Write theta into the model, unless it is there already."""
        assert self._language is not None
        if self._holds != shared.number:
            write(self._language.model, self._theta.__getitem__, shared.perturbation)
            self._holds = shared.number

    def _hold_start(self, shared: Round) -> None:
        """Write the starting weights into the model."""
        assert self._language is not None
        self._holds = None
        write(self._language.model, start_weights(self._start, self._theta), shared.perturbation)

    def _in_place(self, shared: Round, member: int, beat: Callable[[int], None]) -> list[Completion]:
        assert self._language is not None
        self._holds = None
        write(
            self._language.model,
            self._theta.__getitem__,
            shared.perturbation,
            direction(member, shared, self._mirrored),
        )
        (said,) = self._complete(shared.prompts, 1, beat)
        return said

    def _complete(self, prompts: list[Any], copies: int, beat: Callable[[int], None]) -> list[list[Completion]]:
        """Return completions, (members, prompts), computed in batches of at most `rows` rows, or one prompt."""
        assert self._language is not None
        at_once = max(1, self._rows // copies)
        said: list[list[Completion]] = [[] for _ in range(copies)]
        for first in range(0, len(prompts), at_once):
            part = prompts[first : first + at_once]
            for own, more in zip(
                said, self._language.complete(part, copies=copies, most=self._most, beat=beat), strict=True
            ):
                own.extend(more)
        return said

    def _evaluate(self, shared: Round, places: range, beat: Callable[[int], None]) -> Any:
        """Return theta's completions, and their distances from the starting model; None if not measured."""
        assert self._language is not None
        self._hold(shared)
        prompts = shared.prompts[places.start : places.stop]
        (said,) = self._complete(prompts, 1, beat)
        if not self._kl:
            return said, None
        now = self._language.log_probabilities(prompts, said, beat)
        self._hold_start(shared)
        then = self._language.log_probabilities(prompts, said, beat)
        return said, [kl([a], [b]) for a, b in zip(now, then, strict=True)]


def direction(member: int, shared: Round, mirrored: bool) -> Direction:
    """Return the direction of the pair with the member's sign; without pairs, that of the member itself."""
    sigma = shared.perturbation.sigma
    if mirrored:
        return Direction(member // 2, sigma if member % 2 == 0 else -sigma)
    return Direction(member, sigma)


def start_weights(path: Path, names: Iterable[str]) -> Callable[[str], Tensor]:
    """Return a function that reads a parameter of a saved model by name."""
    files = {name: file for file in sorted(path.glob(WEIGHTS)) for name in _names(file)}
    if all(name in files for name in names):
        return lambda name: _tensor(files[name], name)
    # Some architectures are saved under names that differ from the module's.
    return dict(open_model(path, "float32")[0].named_parameters()).__getitem__


def _names(file: Path) -> list[str]:
    with safe_open(file, "pt") as opened:
        return list(opened.keys())


def _tensor(file: Path, name: str) -> Tensor:
    with safe_open(file, "pt") as opened:
        found: Tensor = opened.get_tensor(name)
        return found

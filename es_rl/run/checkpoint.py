"""Checkpoints: atomic, checksummed, nothing pickled.

`checkpoints/<generation>/` holds `model.safetensors` (theta and the policy's buffers by name, and nothing that differs
between equal runs), `trainer.safetensors` (the optimiser), `state.json` (counters, and what the policy is for) and
a manifest. `last` and `best` link to two of them.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from es_rl.errors import CheckpointError, ResourceError
from es_rl.es.strategy import ESState
from es_rl.keys import key
from es_rl.run import atomic as directory


@dataclass(frozen=True)
class CheckpointConfig:
    every: int = key(
        10, "generations between checkpoints (also once a minute, and whenever the run ends)", low=1, resumable=True
    )
    keep: int = key(3, "newest checkpoints kept; the best one is kept besides", low=1, resumable=True)


FORMAT = 2
FILES = ("model.safetensors", "trainer.safetensors", "state.json")
SAVE_SECONDS = 60.0  # a checkpoint is due when the last one is older than this, whatever the cadence


@dataclass(frozen=True)
class Progress:
    """What a run has done so far, besides the strategy's state."""

    steps: int = 0  # of all members, evaluation not counted; of environments, or tokens
    seconds: float = 0.0  # of training
    best_score: float | None = None  # of the evaluations: what they are ranked by
    last_score: float | None = None
    flat_generations: int = 0  # in a row, that taught nothing


@dataclass(frozen=True)
class Checkpoint:
    """What was read back."""

    generation: int
    model: dict[str, Tensor]  # parameters and buffers
    optim: dict[str, Tensor]
    progress: Progress
    about: dict[str, Any]  # what the policy was made for, as it was saved: JSON
    path: Path

    def state(self, fresh: ESState) -> ESState:
        """The strategy's state. Raises `CheckpointError` if names, shapes or types are not those of a `fresh` one."""
        check_fit(self.path, self.model, fresh, "policy")
        for full_name, value in self.optim.items():
            name, _, entry = full_name.rpartition("/")
            if name not in fresh.theta or not entry or value.shape not in ((), fresh.theta[name].shape):
                raise CheckpointError(f"{self.path}: {full_name} is not of an optimiser of this policy.")
        theta = {name: self.model[name] for name in fresh.theta}
        return ESState(self.generation, theta, {name: self.model[name] for name in fresh.buffers}, self.optim)


def check_fit(path: Path, model: Mapping[str, Tensor], fresh: ESState, what: str) -> None:
    """Refuse saved parameters and buffers of other names, shapes or types than fresh ones. Raises `CheckpointError`."""
    expected = {name: (value.shape, value.dtype) for name, value in (fresh.theta | fresh.buffers).items()}
    found = {name: (value.shape, value.dtype) for name, value in model.items()}
    if expected != found:
        differing = sorted({name for name, _ in set(expected.items()) ^ set(found.items())})
        raise CheckpointError(f"{path}: does not fit the {what}; differing: {', '.join(differing)}.")


def save(
    run: Path,
    state: ESState,
    progress: Progress,
    *,
    about: Mapping[str, Any],
    keep: int,
    best: bool,
    pinned: int | None = None,
) -> Path:
    """Write a checkpoint, point `last` (and `best`) to it, remove old ones but `pinned`.

    `about` says what the policy is made for, in JSON. Raises OSError; the checkpoints that were there
    are then still there.
    """
    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in (*folder.glob(".writing-*"), *folder.glob(".old-*")):
        shutil.rmtree(leftover)
    facts = {"format": FORMAT, "generation": state.generation, "progress": asdict(progress), "about": dict(about)}
    contents = {
        "model.safetensors": save_tensors({**state.theta, **state.buffers}),
        "trainer.safetensors": save_tensors(state.optim),
        "state.json": json.dumps(facts, indent=2, allow_nan=False).encode(),
    }
    final = folder / _name(state.generation)
    directory.write(final, contents)
    _link(folder / "last", final.name)
    if best:
        _link(folder / "best", final.name)
    _prune(folder, keep, pinned)
    return final


class Checkpointer:
    """Keeps a run's newest state, and saves it when it is due; a save that fails is told of and tried again."""

    def __init__(
        self, run: Path, config: CheckpointConfig, about: Mapping[str, Any], say: Callable[[str], None]
    ) -> None:
        self._run, self._config, self._about, self._say = run, config, about, say
        self._saved_generation = -1
        self._saved_at = time.monotonic()
        self._best, self._failed = False, False
        self.before: Callable[[], None] = lambda: None  # called first: what a checkpoint counts as done is on disk
        self.pinned: int | None = None  # a generation that is being filmed, and so is kept

    def start(self, state: ESState, progress: Progress, *, saved: bool) -> None:
        """The state that a sitting begins with; `saved` if it was just read back."""
        self.state, self.progress = state, progress
        self._saved_generation = state.generation if saved else -1

    def hold(self, state: ESState, progress: Progress) -> None:
        """Whatever comes, this is what a save saves."""
        self.state, self.progress = state, progress

    def commit(self, state: ESState, progress: Progress, *, best: bool) -> None:
        """Take over a finished generation; save it if the cadence says so, or if it is the best so far.

        One that is the best but could not be saved does not count as such, so that the next good one is kept.
        """
        best_before = self.progress.best_score
        self.state, self.progress = state, progress
        self._best = best
        old = time.monotonic() - self._saved_at > SAVE_SECONDS
        if best or old or self._failed or state.generation % self._config.every == 0:
            self.save()
        if best and self._failed:
            self.progress = replace(progress, best_score=best_before)

    def save(self, *, required: bool = False) -> None:
        """Save the newest state, unless it is. With `required`, raises `ResourceError` if that is impossible."""
        if self._saved_generation == self.state.generation:
            return
        self.before()
        try:
            save(
                self._run,
                self.state,
                self.progress,
                about=self._about,
                keep=self._config.keep,
                best=self._best,
                pinned=self.pinned,
            )
        except OSError as error:
            text = f"generation {self.state.generation} could not be saved: {error.strerror} ({error.filename})"
            if required:
                raise ResourceError(f"{text}. Free the disk, then resume={self._run}.") from error
            self._say(f"warning: {text}; tried again after the next generation")
            self._failed = True
            return
        self._saved_generation, self._saved_at, self._best = self.state.generation, time.monotonic(), False
        self._failed = False


def load(run: Path, which: str = "last") -> Checkpoint:
    """The checkpoint `last`, `best`, or of a generation. Raises `CheckpointError` if it is missing or damaged."""
    folder = run / "checkpoints"
    if not folder.is_dir():
        raise CheckpointError(f"{run}: has no checkpoints.")
    path = folder / (_name(int(which)) if which.isdecimal() else which)
    if which not in ("last", "best") and not which.isdecimal():
        raise CheckpointError(f"checkpoint={which}: must be last, best or the number of a generation.")
    path = path.resolve()  # links move while a training goes on
    if not path.is_dir():
        there = ", ".join(str(int(p.name)) for p in _all(folder)) or "none"
        raise CheckpointError(f"{run}: has no checkpoint {which}; generations that there are: {there}.")
    return _read(path)


def load_newest(run: Path, on_warning: Callable[[str], None]) -> Checkpoint:
    """The newest sound checkpoint; damaged ones are warned of. Raises `CheckpointError` if none is sound."""
    found = _all(run / "checkpoints")
    if not found:
        raise CheckpointError(f"{run}: has no checkpoint to resume from.")
    problems = []
    for path in reversed(found):
        try:
            return _read(path)
        except CheckpointError as error:
            problems.append(str(error))
            on_warning(f"{error} Falling back to the one before.")
    raise CheckpointError(f"{run}: all {len(found)} checkpoints are damaged. The newest: {problems[0]}")


def _read(path: Path) -> Checkpoint:
    """Check every file against the manifest before anything in it is looked at."""
    with directory.reading(path):
        contents = directory.read(path, FILES)
        facts = json.loads(contents["state.json"])
        if facts["format"] != FORMAT:
            raise CheckpointError(f"{path}: has format {facts['format']}; this version reads {FORMAT}.")
        return Checkpoint(
            generation=int(facts["generation"]),
            model=load_tensors(contents["model.safetensors"]),
            optim=load_tensors(contents["trainer.safetensors"]),
            progress=_progress(facts["progress"]),
            about=dict(facts["about"]),
            path=path,
        )


def _progress(saved: dict[str, Any]) -> Progress:
    """Raises ValueError or TypeError if it holds anything but numbers."""
    progress = Progress(**saved)
    for name, value in asdict(progress).items():
        if not math.isfinite(0.0 if value is None and name.endswith("_score") else value):
            raise ValueError(f"{name} is {value}")
    return progress


def _all(folder: Path) -> list[Path]:
    """Checkpoint directories, oldest first."""
    return sorted(p for p in folder.glob("*") if p.name.isdecimal() and p.is_dir())


def _name(generation: int) -> str:
    return f"{generation:08d}"


def _link(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def _prune(folder: Path, keep: int, pinned: int | None) -> None:
    linked = {(folder / name).resolve().name for name in ("last", "best")}
    for path in _all(folder)[:-keep]:
        if path.name not in linked and int(path.name) != pinned:
            shutil.rmtree(path)

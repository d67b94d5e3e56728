"""The newest state of a run, saved when it is due."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from es_rl.config import to_yaml
from es_rl.errors import ResourceError
from es_rl.es.strategy import ESState
from es_rl.run.checkpoint import Progress, save

IN_PLACE = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY)  # errors of a file where something else is
SAVE_SECONDS = 60.0  # a checkpoint is also due when the last save is older than this


class Checkpointer:
    """Holds a run's newest state and saves it when due. After a failed save it warns and tries again."""

    def __init__(self, run: Path, config: Any, about: Mapping[str, Any], say: Callable[[str], None]) -> None:
        self._run, self._config, self._about, self._say = run, config.checkpoint, about, say
        self._keys = to_yaml(config)
        self._saved_generation = -1
        self._saved_at = time.monotonic()
        self._best, self._failed = False, False
        self._best_before: float | None = None  # the best score before the newest generation
        self.before: Callable[[], None] = lambda: None  # called before a save: the log must not lag behind a checkpoint
        self.pinned: int | None = None  # a generation that is kept because it is being filmed
        self.milestones: Sequence[float] = ()  # seconds of training after which a checkpoint is saved, and kept

    def start(self, state: ESState, progress: Progress, *, saved: bool) -> None:
        """Set the first state; `saved` if it was just read from a checkpoint."""
        self.state, self.progress = state, progress
        self._saved_generation = state.generation if saved else -1

    def evaluated(self, progress: Progress, *, best: bool) -> None:
        """Take over the score of the first state. It is saved again: a run that goes on need not evaluate it again."""
        self.progress, self._best, self._saved_generation = progress, best, -1
        self.save()

    @property
    def ahead(self) -> Progress:
        """The progress that the next generation starts from: a best one that is not on disk does not count."""
        lost = self._best and self._failed
        return replace(self.progress, best_score=self._best_before) if lost else self.progress

    def hold(self, state: ESState, progress: Progress) -> None:
        """Save this state, whatever comes."""
        self.state, self.progress, self._best = state, progress, False

    def commit(self, state: ESState, progress: Progress, *, best: bool) -> None:
        """Take over a finished generation. Save it if one is due, or if it is the best so far."""
        self._best_before = self.ahead.best_score
        reached = any(self.progress.seconds < seconds <= progress.seconds for seconds in self.milestones)
        self.state, self.progress, self._best = state, progress, best
        old = time.monotonic() - self._saved_at > SAVE_SECONDS
        if best or old or reached or self._failed or state.generation % self._config.every == 0:
            self.save()

    def save(self, *, required: bool = False) -> None:
        """Save the newest state if it is not saved yet. With `required`, raises `ResourceError` if saving fails."""
        if self._saved_generation == self.state.generation:
            return
        self.before()
        try:
            save(
                self._run,
                self.state,
                self.progress,
                about=self._about,
                config=self._keys,
                keep=self._config.keep,
                best=self._best,
                pinned=self.pinned,
                milestones=self.milestones,
            )
        except OSError as error:
            why = f"{error.strerror or error} ({error.filename2 or error.filename or self._run})"
            text = f"generation {self.state.generation} could not be saved: {why}"
            if required:
                then = f"then resume={self._run}" if self.state.generation else "and start again"
                remedy = "Remove what is in its place" if error.errno in IN_PLACE else "Free the disk"
                raise ResourceError(f"{text}. {remedy}, {then}.") from error
            self._say(f"warning: {text}. It is tried again after the next generation")
            self._failed = True
            return
        self._saved_generation, self._saved_at, self._best = self.state.generation, time.monotonic(), False
        self._failed = False

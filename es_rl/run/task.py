"""The interface of a kind of training: its task, its first state, and what its policy is for.

`es_rl.run.loop` handles the run's checkpoints, log, screen and stop rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from es_rl.arguments.origins import NOWHERE, Origins
from es_rl.errors import ConfigError
from es_rl.es import ESState, MemberScores
from es_rl.run.checkpoint import Progress
from es_rl.run.checkpointer import Checkpointer
from es_rl.run.log import RunLog
from es_rl.run.terms import RunTerms, StopRules
from es_rl.workers.interface import Pool

DEFAULT_MINUTES = 60.0  # length of a run without any stop rule


# Called with state, progress and record of each finished generation, and with those of the untrained policy if it is
# evaluated, which has generation 0; returning True ends the training.
OnGeneration = Callable[[ESState, Progress, dict[str, Any]], bool]


class Task(Protocol):
    """What a run trains."""

    def members(self, state: ESState) -> MemberScores:
        """Return the scores of all members of the coming generation."""

    def evaluate(self, state: ESState) -> dict[str, Any]:
        """Return metrics of theta itself, including the score."""


class Follower(Protocol):
    """Extra work beside a run, such as films."""

    @property
    def milestones(self) -> Sequence[float]:
        """Seconds of training after which a checkpoint is kept."""

    def poll(self, saver: Checkpointer) -> None:
        """Do what is due after a generation."""

    def finish(self, saver: Checkpointer, check: Callable[[], None]) -> Mapping[str, Path]:
        """Do the last work after training. Return the files made, by what they are. `check` may raise to give up."""

    def close(self) -> None:
        """Release resources, however the run ended."""


@dataclass(frozen=True)
class StepResult:
    """The result of one generation."""

    state: ESState
    steps: int
    record: dict[str, Any]
    fitness: NDArray[np.float64]
    flat: bool  # no difference in fitness, so theta did not move


@dataclass(frozen=True)
class Training:
    """A kind of training, ready to begin."""

    task: Task
    state: ESState  # before the first generation
    about: dict[str, Any]  # what the policy is for, as JSON; a run resumes only with the same
    heading: str
    follow: Callable[[RunLog], Follower] | None = None
    step: Callable[[ESState], StepResult] | None = None  # replaces the usual generation of evolution strategies
    in_place: bool = False  # a step overwrites theta: the old theta is gone


@dataclass(frozen=True)
class Run:
    """A run: what to train, and where."""

    config: Any  # resolved; has the keys of every run: es, optim, seed, chunk, eval.every, checkpoint, stop rules, …
    path: Path
    prepare: Callable[[Pool, Callable[[str], None]], Training]  # gets the workers and a function that prints a line
    command: str  # that began it
    title: str
    workers: int
    resumed: bool
    terms: RunTerms
    on_generation: OnGeneration | None = None
    quiet: bool = False  # show warnings only
    origins: Origins = NOWHERE  # of the keys of a new run
    titled: Sequence[str] = ("run",)  # keys that the title tells
    commands: Sequence[str] = ()  # to paste after the run; the last one goes on with it, and is given a stop rule

    @property
    def stop_rules(self) -> StopRules:
        """The configured rules, or the default one. Raises `ConfigError` for a target without evaluations."""
        rules, target = StopRules.of(self.config, self.terms), self.terms.target
        if rules.target is not None and not self.config.eval.every:
            raise ConfigError(
                f"{target}={rules.target:g}: is checked in evaluations, which eval.every=0 turns off. "
                f"Give eval.every above 0."
            )
        return replace(rules, minutes=DEFAULT_MINUTES) if rules == StopRules(None, None, None, None) else rules

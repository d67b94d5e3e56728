"""What a kind of training provides: who evaluates members, the first state, and what it is for.

It knows nothing of directories, checkpoints, screens and stops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from es_rl.errors import ConfigError
from es_rl.es import ESState, MemberScores
from es_rl.run.checkpoint import Checkpointer
from es_rl.run.log import RunLog
from es_rl.run.terms import RunTerms, StopRules
from es_rl.workers.pool import Workers

DEFAULT_MINUTES = 60.0  # of a run without any stop rule


class Task(Protocol):
    """What is trained."""

    def members(self, state: ESState) -> MemberScores:
        """The fitness of all members of the coming generation."""

    def evaluate(self, state: ESState) -> dict[str, Any]:
        """Metrics of theta itself, among them the score."""


class Follower(Protocol):
    """What goes along with a run beside its log, such as films."""

    def poll(self, saver: Checkpointer) -> None:
        """After each generation."""

    def finish(self, saver: Checkpointer, check: Callable[[], None]) -> None:
        """At the end; `check` may raise to give up."""

    def close(self) -> None:
        """However the run ended."""


@dataclass(frozen=True)
class StepResult:
    """What one generation did."""

    state: ESState
    steps: int
    record: dict[str, Any]
    fitness: NDArray[np.float64]
    flat: bool  # nothing could be learnt


@dataclass(frozen=True)
class Training:
    """A kind of training, ready to begin."""

    task: Task
    state: ESState  # before the first generation
    about: dict[str, Any]  # what the policy is for: JSON; a run goes on only with the same
    heading: str
    follow: Callable[[RunLog], Follower] | None = None
    step: Callable[[ESState], StepResult] | None = None  # in place of a generation of evolution strategies
    in_place: bool = False  # a step moves theta where it lies: what was before is gone


@dataclass(frozen=True)
class Run:
    """What is to be run, and where."""

    config: Any  # resolved; with the keys of every run: es, optim, seed, chunk, eval.every, checkpoint, stop rules, …
    path: Path
    prepare: Callable[[Workers, Callable[[str], None]], Training]  # is given a way to say something
    verb: str
    argv: Sequence[str]
    title: str
    workers: int
    resumed: bool
    terms: RunTerms

    @property
    def stop_rules(self) -> StopRules:
        """The configured rules, or the default one. Raises `ConfigError` for a target that is never looked at."""
        rules, target = StopRules.of(self.config, self.terms), self.terms.target
        if rules.target is not None and not self.config.eval.every:
            raise ConfigError(f"{target}={rules.target:g}: is looked at in evaluations. Give eval.every above 0.")
        return replace(rules, minutes=DEFAULT_MINUTES) if rules == StopRules(None, None, None, None) else rules

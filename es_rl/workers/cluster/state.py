"""What a pool on a cluster knows of its workers, and of the jobs of a `map` in progress."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np

from es_rl.errors import TrainingError
from es_rl.workers.worker import Function

SLOW = 4.0  # a job that takes this many times the median of its kind is given to an idle worker too,
SLOW_SECONDS = 2.0  # but not before this
ENOUGH = 3  # finished jobs from which on there is a median


@dataclass(eq=False)
class ActorState:
    slot: int
    handle: Any
    answer: Any = None  # the reference to what its `collect` will return; None: it is not asked at present
    placed: float = 0.0  # when a machine was first heard to have taken it
    facts: dict[str, Any] | None = None  # None until it is ready
    refused: bool = False  # it was left out: it gets no jobs, and keeps its place from others
    gone: bool = False  # it could not begin: there is nobody to ask
    function: object = None  # the last one sent to it; likewise `context`
    context: object = None
    jobs: dict[int, float] = field(default_factory=dict)  # serial number of a job → when it was given
    asked: bool = False
    given: float = 0.0  # when it last got jobs while idle
    last_beat: float = 0.0

    @property
    def able(self) -> bool:
        """True if it can take jobs."""
        return self.facts is not None and not self.refused

    @property
    def name(self) -> str:
        """Text that names it and its machine."""
        return f"{self.facts['pid']} on {self.facts['host']}" if self.facts else f"number {self.slot}, not yet begun"


@dataclass
class Losses:
    """The workers that a job has lost."""

    nodes: list[str] = field(default_factory=list)  # of those that died
    hung: int = 0


@dataclass
class ClusterMap:
    """A `map` in progress. Jobs have numbers that are never used again, so that a late answer is told from others."""

    function: Function
    context: object
    jobs: Sequence[Any]
    on_result: Callable[[int, Any], None]
    first: int  # number of the first job
    compare: bool  # what is computed twice
    waiting: deque[int] = field(default_factory=deque)
    outcomes: dict[int, Any] = field(default_factory=dict)
    losses: dict[int, Losses] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)  # of finished jobs
    twice: set[int] = field(default_factory=set)  # jobs that were given to a second worker

    def __post_init__(self) -> None:
        self.waiting.extend(range(self.first, self.first + len(self.jobs)))

    @property
    def done(self) -> bool:
        return len(self.outcomes) == len(self.jobs)

    def holds(self, number: int) -> bool:
        return self.first <= number < self.first + len(self.jobs)

    def job(self, number: int) -> Any:
        return self.jobs[number - self.first]

    def settle(self, number: int, outcome: Any, seconds: float | None = None) -> None:
        """Count the first outcome of a job. Raises `TrainingError` if another one is to be equal, and is not."""
        index = number - self.first
        if index not in self.outcomes:
            self.outcomes[index] = outcome
            if seconds is not None:
                self.seconds.append(seconds)
            self.on_result(index, outcome)
        elif self.compare and not equal(self.outcomes[index], outcome):
            raise TrainingError(
                f"two workers computed different results of job {index}: a machine of the cluster computes other bits. "
                f"Leave it out, or give cluster.same_bits=warn."
            )

    def suits(self, worker: ActorState) -> bool:
        """Tell whether a worker can take the next job. A job that has lost a worker runs alone."""
        if not worker.able or not self.waiting:
            return False
        if not worker.jobs:
            return True
        mine = all(self.holds(number) for number in worker.jobs)  # not those of an abandoned map
        return worker.asked and mine and not ({self.waiting[0], *worker.jobs} & self.losses.keys())

    def next(self, most: int) -> list[int]:
        """Take up to `most` waiting jobs, but at least one. A job that has lost a worker is taken alone."""
        chosen = [self.waiting.popleft()]
        if chosen[0] not in self.losses:
            while self.waiting and len(chosen) < most and self.waiting[0] not in self.losses:
                chosen.append(self.waiting.popleft())
        return chosen

    def straggler(self, workers: Sequence[ActorState]) -> int | None:
        """Return the number of a job that takes far longer than others and runs once only; None if there is none.

        A job that has lost a worker runs alone: it may be to blame.
        """
        if len(self.seconds) < ENOUGH:
            return None
        limit, now = max(SLOW_SECONDS, SLOW * statistics.median(self.seconds)), time.monotonic()
        slow = [
            (given, number)
            for worker in workers
            for number, given in worker.jobs.items()
            if self.holds(number)
            and number - self.first not in self.outcomes
            and number not in self.twice
            and number not in self.losses
        ]
        given, number = min(slow, default=(now, -1))
        return number if now - given > limit else None


def equal(one: Any, other: Any) -> bool:
    """Tell whether two outcomes are the same to the last bit, but for fields that dataclasses do not compare."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return bool(one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes())
    if is_dataclass(one):
        return all(equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(one) if f.compare)
    if isinstance(one, dict):
        return bool(one.keys() == other.keys()) and all(equal(value, other[name]) for name, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    if hasattr(one, "numpy"):
        return equal(one.numpy(), other.numpy())
    return bool(one == other or (one != one and other != other))  # NaN is equal to itself

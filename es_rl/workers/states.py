"""What a pool knows of its workers, and of the jobs of a `map` in progress."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from multiprocess.connection import Connection

from es_rl.workers.worker import Function


@dataclass(eq=False)
class WorkerState:
    slot: int  # its place in the pool, from 0 on
    process: Any
    pipe: Connection
    started: float
    ready: bool = False
    function: object = None  # the last one sent to it; likewise `context`
    context: object = None
    jobs: set[int] = field(default_factory=set)
    asked: bool = False  # for more jobs
    given: float = 0.0  # when it last got jobs while idle
    last_beat: float = 0.0


@dataclass
class Tries:
    died: int = 0
    hung: int = 0


@dataclass
class MapState:
    """A `map` in progress."""

    function: Function
    context: object
    jobs: Sequence[Any]
    on_result: Callable[[int, Any], None]
    waiting: deque[int]
    outcomes: dict[int, Any] = field(default_factory=dict)
    tries: dict[int, Tries] = field(default_factory=dict)

    def settle(self, index: int, outcome: Any) -> None:
        self.outcomes[index] = outcome
        self.on_result(index, outcome)

    def suits(self, worker: WorkerState) -> bool:
        """Tell whether a worker can take the next job. A job that has lost a worker runs alone."""
        if not worker.ready or not self.waiting:
            return False
        return not worker.jobs or (worker.asked and not ({self.waiting[0], *worker.jobs} & self.tries.keys()))

    def next(self, most: int) -> list[int]:
        """Take up to `most` waiting jobs, but at least one. A job that has lost a worker is taken alone."""
        chosen = [self.waiting.popleft()]
        if chosen[0] not in self.tries:
            while self.waiting and len(chosen) < most:
                chosen.append(self.waiting.popleft())
        return chosen

"""What all pools of workers have: processes of this machine (`pool`), or actors of a cluster (`cluster.pool`)."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack

from es_rl.workers.worker import Function


def counted(workers: int) -> str:
    """Return a number of workers in words."""
    return "1 worker" if workers == 1 else f"{workers or 'no'} workers"


class Watch(TypedDict, total=False):
    """How a pool is watched: keyword arguments of every pool."""

    log: Path | None  # file for what workers print
    hang_after: float  # seconds without a beat after which a busy worker is replaced; default: 60
    check: Callable[[], None]  # called at least about four times a second while jobs run; may raise to abandon them
    on_event: Callable[[str], None]  # gets a line of text when a worker is replaced
    on_steps: Callable[[int], None]  # gets the number of steps just done


class Pool(abc.ABC):
    """Workers that compute jobs. Leaving a `with` block closes the pool."""

    def __init__(self, **watch: Unpack[Watch]) -> None:
        self.hang_after, self._log = watch.get("hang_after", 60.0), watch.get("log")
        self._check: Callable[[], None] = watch.get("check", lambda: None)
        self._on_event: Callable[[str], None] = watch.get("on_event", lambda text: None)
        self._on_steps: Callable[[int], None] = watch.get("on_steps", lambda steps: None)
        self._siblings: list[Pool] = []
        self.busy = 0.0  # seconds that workers spent on finished jobs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    @abc.abstractmethod
    def count(self) -> int:
        """Number of workers now; 0: everything runs in this process."""

    @property
    @abc.abstractmethod
    def shares_memory(self) -> bool:
        """True if all workers can open the memory and the files of this machine."""

    @abc.abstractmethod
    def map(
        self,
        function: Function,
        context: object,
        jobs: Sequence[Any],
        *,
        on_result: Callable[[int, Any], None] = lambda index, outcome: None,
        pump: Callable[[], bool] | None = None,
    ) -> list[Any]:
        """Return the results of `function(context, job, beat)` in the order of jobs, a `JobFailure` for failed ones.

        `on_result(index, outcome)` is called as each outcome arrives; it may raise to abandon the rest. `pump` is for
        jobs that need this process while they run. It is called repeatedly and returns whether it had something to
        do; with `count=0` it is not called. Raises what these functions or `check` raise, and `ResourceError` if
        workers cannot be started.
        """

    @abc.abstractmethod
    def restart(self) -> None:
        """Replace all workers by new ones, with the environment variables of now."""

    def check(self) -> None:
        """Raise if the run was asked to stop: to be called in work that the parent does itself."""
        self._check()

    def figures(self) -> Mapping[str, float]:
        """Return what there is to tell of the workers since the last call, by metric."""
        return {}

    def sibling(self, count: int, *, hang_after: float) -> Pool:
        """Return a pool of processes of this machine, with the same log, `check` and `on_event`.

        It is closed together with this one.
        """
        from es_rl.workers.pool import Workers  # which is a pool itself

        pool = Workers(count, log=self._log, hang_after=hang_after, check=self._check, on_event=self._on_event)
        self._siblings.append(pool)
        return pool

    def close(self) -> None:
        """End the workers and those of sibling pools. Wait until they are gone."""
        while self._siblings:
            self._siblings.pop().close()

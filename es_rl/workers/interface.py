"""The interface of a pool of workers: processes of this machine (`pool`), or actors of a cluster (`cluster.pool`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from es_rl.workers.worker import Function


class Pool(Protocol):
    """Workers that compute jobs. `es_rl.workers.pool.Workers` tells what each method does."""

    hang_after: float  # seconds without a beat after which a busy worker is replaced
    busy: float  # seconds that workers spent on finished jobs

    @property
    def count(self) -> int:
        """Number of workers now; 0: everything runs in this process."""

    @property
    def shares_memory(self) -> bool:
        """True if all workers can open the memory and the files of this machine."""

    def map(
        self,
        function: Function,
        context: object,
        jobs: Sequence[Any],
        *,
        on_result: Callable[[int, Any], None] = ...,
        pump: Callable[[], bool] | None = None,
    ) -> list[Any]:
        """Return the outcomes of jobs in their order."""

    def check(self) -> None:
        """Raise if the run was asked to stop."""

    def sibling(self, count: int, *, hang_after: float) -> Pool:
        """Return another pool on this machine, which is closed together with this one."""

    def restart(self) -> None:
        """Replace all workers."""

    def figures(self) -> Mapping[str, float]:
        """Return what there is to tell of the workers since the last call, by metric."""

    def close(self) -> None:
        """End the workers."""

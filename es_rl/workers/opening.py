"""Open the pool that a run asks for: processes of this machine, or actors of a cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from es_rl.workers.cluster.config import ClusterConfig
from es_rl.workers.interface import Pool
from es_rl.workers.pool import Workers


def open_pool(
    cluster: ClusterConfig,
    processes: int,
    actors: int | None,
    *,
    log: Path | None = None,
    hang_after: float,
    check: Callable[[], None] = lambda: None,
    on_event: Callable[[str], None] = lambda text: None,
    on_steps: Callable[[int], None] = lambda steps: None,
) -> Pool:
    """Return a pool of so many processes, or of so many actors (None: all that fit) if there is a cluster.

    Raises `ConfigError` or `ResourceError`.
    """
    if not cluster.address:
        return Workers(processes, log=log, hang_after=hang_after, check=check, on_event=on_event, on_steps=on_steps)
    from es_rl.workers.cluster.connection import check as check_cluster

    check_cluster(cluster)
    from es_rl.workers.cluster.pool import ClusterWorkers

    return ClusterWorkers(
        cluster, actors, log=log, hang_after=hang_after, check=check, on_event=on_event, on_steps=on_steps
    )

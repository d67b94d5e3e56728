"""Open the pool that a run asks for: processes of this machine, or actors of a cluster."""

from __future__ import annotations

from typing import Unpack

from es_rl.workers.cluster.config import ClusterConfig
from es_rl.workers.interface import Pool, Watch
from es_rl.workers.pool import Workers


def check(cluster: ClusterConfig) -> None:
    """Raise `ConfigError` or `ResourceError` for a cluster that cannot be, before anything is made for a run."""
    if cluster.address:
        from es_rl.workers.cluster import connection

        connection.check(cluster)


def open_pool(cluster: ClusterConfig, processes: int, actors: int | None, **watch: Unpack[Watch]) -> Pool:
    """Return a pool of so many processes, or of so many actors (None: all that fit) if there is a cluster.

    Raises `ConfigError` or `ResourceError`.
    """
    check(cluster)
    if not cluster.address:
        return Workers(processes, **watch)
    from es_rl.workers.cluster.pool import ClusterWorkers

    return ClusterWorkers(cluster, actors, **watch)

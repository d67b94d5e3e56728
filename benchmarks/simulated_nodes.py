"""A Ray cluster of several machines, simulated on this one by Ray's own `ray.cluster_utils`.

Each node is a raylet with its processes. They share this machine's processors, so they make faults, not speed.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

from es_rl.workers.cluster.connection import on_loopback
from es_rl.workers.processes import environment

STORE = 80 * 2**20  # bytes of the object store of each node
SETTINGS = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}  # fmt: skip
TRIES = 5  # Ray gives a node half a minute to begin, which a busy machine may exceed


class Nodes:
    """A head that is never lost, and other nodes that may be. Each has room for `cpus` workers."""

    def __init__(self, count: int, cpus: int = 1) -> None:
        from ray.cluster_utils import Cluster

        self._keys = {
            "num_cpus": cpus, "node_ip_address": "127.0.0.1", "object_store_memory": STORE, "include_dashboard": False,
        }  # fmt: skip
        self._cluster = Cluster(initialize_head=True, head_node_args=self._keys)
        self.address: str = self._cluster.address
        self.head = self._cluster.head_node
        self.others: list[Any] = []
        for _ in range(count - 1):
            self.add()

    def add(self) -> None:
        for left in reversed(range(TRIES)):
            try:
                self.others.append(self._cluster.add_node(**self._keys))
                return
            except Exception:  # Ray raises just this
                if not left:
                    raise

    def kill(self) -> None:
        """End the oldest of the other nodes without grace."""
        self._cluster.remove_node(self.others.pop(0), allow_graceful=False)

    def drain(self, seconds: float) -> None:
        """Tell the cluster that the oldest of the other nodes will be gone; end it after these seconds."""
        from ray._raylet import GcsClient
        from ray.core.generated import autoscaler_pb2

        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        until = int((time.time() + seconds) * 1000)
        accepted, why = GcsClient(address=self.address).drain_node(self.others[0].node_id, reason, "taken back", until)
        if not accepted:
            raise RuntimeError(why)
        time.sleep(seconds)
        self._cluster.remove_node(self.others.pop(0), allow_graceful=True)

    def close(self) -> None:
        self._cluster.shutdown()


@contextlib.contextmanager
def simulated(count: int, cpus: int = 1, paths: tuple[str, ...] = ()) -> Iterator[Nodes]:
    """Start nodes, whose workers also import from `paths`. End them afterwards."""
    python_path = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])
    with environment(SETTINGS | {"PYTHONPATH": python_path}), on_loopback():
        nodes = Nodes(count, cpus)
        try:
            yield nodes
        finally:
            nodes.close()

"""The actors of a pool: started, listened to, replaced, and as many as the cluster has room for."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from es_rl.errors import ResourceError
from es_rl.workers.cluster.actor import Actor
from es_rl.workers.cluster.config import ClusterConfig
from es_rl.workers.cluster.ledger import Ledger
from es_rl.workers.cluster.state import ActorState
from es_rl.workers.fork_server import RENDERER
from es_rl.workers.processes import THREAD_VARIABLES

LOOK_SECONDS = 1.0  # between two looks at the machines of the cluster
COLLECT_SECONDS = 5.0  # a worker answers at least this often, and tells then how many steps it has made
AT_ONCE = 4  # calls of an actor that run side by side: one collects, one gives


class Staff:
    """The actors. Raises `ResourceError` if a given `count` is more than the cluster has processors or GPUs for."""

    def __init__(self, config: ClusterConfig, count: int | None) -> None:
        import ray

        self._ray, self._config, self._wanted = ray, config, count or None
        self.workers: list[ActorState] = []
        self.count = 1
        self._slots, self._looked = 0, 0.0
        self._stored: dict[str, tuple[object, Any, int]] = {}  # kind → (value, its reference, bytes)
        self._holders: dict[str, set[str]] = {}  # kind → nodes that have fetched it
        room = self._room()
        if self._wanted is not None and room < self._wanted:
            raise ResourceError(
                f"workers={count}: the cluster has room for {room}, with cluster.cpus={config.cpus:g} and "
                f"cluster.gpus={config.gpus:g} for each. Give fewer workers, or leave workers out."
            )
        self.adjust()

    def close(self) -> None:
        """End all actors."""
        while self.workers:
            self._kill(self.workers.pop())
        self._stored.clear()

    def nodes(self) -> dict[str, dict[str, float]]:
        """Return the resources of the machines that are up, by their ids."""
        return {node["NodeID"]: node["Resources"] for node in self._ray.nodes() if node["Alive"]}

    def _room(self) -> int:
        """Return how many actors the machines that are up have room for."""
        cpus, gpus = self._config.cpus, self._config.gpus
        return sum(
            min(_fits(node.get("CPU", 0), cpus), _fits(node.get("GPU", 0), gpus) if gpus else 2**31)
            for node in self.nodes().values()
        )

    @property
    def exhausted(self) -> bool:
        """True if the workers that were left out are all that the cluster has room for."""
        refused = sum(worker.refused for worker in self.workers)
        return not any(worker.able for worker in self.workers) and refused >= self._room()

    def adjust(self) -> None:
        """Start or end actors, so that there are as many as wanted."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS and self.workers:
            return
        self._looked = now
        refused = sum(worker.refused for worker in self.workers)
        wanted = self._room() if self._wanted is None else self._wanted + refused
        while len(self.workers) < wanted:
            self.workers.append(self._start(self._slots))
            self._slots += 1
        surplus = [worker for worker in self.workers if worker.facts is None][: max(0, len(self.workers) - wanted)]
        for worker in surplus:
            self.workers.remove(worker)
            self._kill(worker)
        self.count = max(1, wanted - refused)

    def _start(self, slot: int) -> ActorState:
        environment = dict.fromkeys(THREAD_VARIABLES, "1") | {RENDERER: os.environ.get(RENDERER, "disabled")}
        handle = (
            self._ray.remote(Actor)
            .options(
                num_cpus=self._config.cpus, num_gpus=self._config.gpus, max_restarts=0, max_concurrency=AT_ONCE,
                scheduling_strategy="SPREAD", runtime_env=dict(self._config.runtime_env) or None,
            )
            .remote(slot, environment, str(Path.cwd()))
        )  # fmt: skip
        return ActorState(slot, handle)

    def restart(self) -> None:
        """Replace all actors."""
        for worker in list(self.workers):
            self.replace(worker)

    def replace(self, worker: ActorState) -> None:
        """End an actor, and start another in its place."""
        self.workers.remove(worker)
        self._kill(worker)
        self.workers.append(self._start(worker.slot))

    def _kill(self, worker: ActorState) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError, ValueError):  # it is gone, or was never placed
            self._ray.kill(worker.handle, no_restart=True)

    def give(self, worker: ActorState, shared: list[Any], data: bytes) -> None:
        """Send jobs to a worker, and before them what lies in the object store."""
        if worker.answer is None:
            worker.answer = worker.handle.give_and_collect.remote(shared, data, COLLECT_SECONDS)
        else:
            worker.handle.give.remote(shared, data)

    def listen(self, seconds: float) -> Iterator[tuple[ActorState, Any]]:
        """Yield workers with what they say, or with the error that tells of their end."""
        asked = [worker for worker in self.workers if not worker.gone]
        for worker in asked:
            if worker.answer is None:
                worker.answer = worker.handle.collect.remote(COLLECT_SECONDS)
        by_answer = {worker.answer: worker for worker in asked}
        answers = list(by_answer)
        if not answers:
            time.sleep(seconds)
            return
        ready, rest = self._ray.wait(answers, num_returns=1, timeout=seconds)
        if ready and rest:
            ready += self._ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        for answer in ready:
            worker = by_answer[answer]
            if worker not in self.workers:
                continue
            try:
                said = self._ray.get(answer)
            except self._ray.exceptions.RayError as error:
                yield worker, error
                continue
            worker.placed = worker.placed or time.monotonic()
            worker.answer = None
            yield worker, said

    def stored(self, kind: str, value: object, pack: Callable[[str, object], bytes], ledger: Ledger, node: str) -> Any:
        """Return the reference to a value in the object store. Count its bytes once for each machine."""
        if kind not in self._stored or self._stored[kind][0] is not value:
            data = pack(kind, value)
            self._stored[kind] = (value, self._ray.put(data), len(data))
            self._holders[kind] = set()
        _, reference, size = self._stored[kind]
        if node not in self._holders[kind]:
            self._holders[kind].add(node)
            ledger.bytes_out += size
        return reference


def _fits(amount: float, each: float) -> int:
    return int(amount / each + 1e-9)  # 0.7 / 0.1 is a little less than 7

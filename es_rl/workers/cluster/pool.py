"""A pool of workers on a Ray cluster, used like that of one machine: see `es_rl.workers.pool`.

A worker is an actor. The function and what all jobs of a `map` share are put into the object store, from which each
machine fetches them once. Machines may come and go: the jobs of lost workers run again elsewhere, to the same bits, and
each result counts once. The number of workers follows the cluster, unless it was given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cloudpickle

import es_rl
from es_rl.errors import ConfigError, ResourceError
from es_rl.workers.cluster.config import ClusterConfig
from es_rl.workers.cluster.connection import Connection, first_line
from es_rl.workers.cluster.fingerprint import differing
from es_rl.workers.cluster.ledger import Ledger
from es_rl.workers.cluster.staff import Staff
from es_rl.workers.cluster.state import ActorState, ClusterMap, Losses
from es_rl.workers.pool import DEATHS, HANGS, POLL_SECONDS, SHARE, Workers, pump_for_a_while
from es_rl.workers.worker import Function, JobFailure, Jobs, packed

WAIT_SECONDS = 30.0  # without any worker, until this is said


class ClusterWorkers:
    """A pool of actors: `count` of them, or as many as the cluster has processors for (None).

    `check`, `on_event` and `on_steps` are those of `es_rl.workers.pool.Workers`. Raises `ConfigError` or
    `ResourceError` if there is no such cluster, or if it has too few processors.
    """

    shares_memory = False

    def __init__(
        self,
        config: ClusterConfig,
        count: int | None,
        *,
        log: Path | None = None,
        hang_after: float = 60.0,
        check: Callable[[], None] = lambda: None,
        on_event: Callable[[str], None] = lambda text: None,
        on_steps: Callable[[int], None] = lambda steps: None,
    ) -> None:
        self.hang_after, self._log, self._strict = hang_after, log, config.same_bits == "strict"
        self._check, self._on_event, self._on_steps = check, on_event, on_steps
        self._siblings: list[Workers] = []
        self.ledger = Ledger(log)
        self.busy = 0.0  # seconds that workers spent on finished jobs
        self._begun = 0  # jobs, in all maps
        self._first: dict[str, Any] | None = None  # facts of the first worker that began
        self._warned: set[str] = set()  # machines whose fingerprint was told
        self._startup_deaths, self._alone_since, self._alone_told = 0, time.monotonic(), False
        self._connection = Connection(config)
        try:
            self._staff = Staff(config, count)
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> ClusterWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, those of sibling pools, and what was started of the cluster."""
        while self._siblings:
            self._siblings.pop().close()
        self._staff.close()
        self._connection.close()

    @property
    def count(self) -> int:
        """Number of workers that the cluster has room for, at least one."""
        return self._staff.count

    @property
    def workers(self) -> list[ActorState]:
        """The workers, also those that have not begun."""
        return self._staff.workers

    def sibling(self, count: int, *, hang_after: float) -> Workers:
        """Return a pool of processes on this machine. It is closed together with this one."""
        pool = Workers(count, log=self._log, hang_after=hang_after, check=self._check, on_event=self._on_event)
        self._siblings.append(pool)
        return pool

    def check(self) -> None:
        """Raise if the run was asked to stop."""
        self._check()

    def restart(self) -> None:
        """Replace all workers by new ones, with the environment variables of now."""
        self._staff.restart()

    def figures(self) -> dict[str, float]:
        """Return the numbers of machines and workers, and what was lost and sent since the last call."""
        begun = [worker.facts["node"] for worker in self.workers if worker.facts]
        return {"cluster/nodes": len(set(begun)), "cluster/actors": len(begun), **self.ledger.figures()}

    def map(
        self,
        function: Function,
        context: object,
        jobs: Sequence[Any],
        *,
        on_result: Callable[[int, Any], None] = lambda index, outcome: None,
        pump: Callable[[], bool] | None = None,
    ) -> list[Any]:
        """Return the outcomes of jobs in their order: see `es_rl.workers.pool.Workers.map`."""
        m = ClusterMap(function, context, jobs, on_result, self._begun, self._strict)
        self._begun += len(jobs)
        while not m.done:
            self._check()
            self._staff.adjust()
            self._say_if_alone()
            for worker in self.workers:
                if m.suits(worker):
                    self._give(worker, m, m.next(len(m.waiting) // (SHARE * self.count) if _several(m) else 1))
            self._help_stragglers(m)
            for worker, messages in self._listen(POLL_SECONDS if pump is None else 0.0, m):
                for message in messages:
                    self._hear(worker, cloudpickle.loads(message), m)
            self._bury_the_hung(m)
            if pump is not None:
                pump_for_a_while(pump)
        return [m.outcomes[i] for i in range(len(jobs))]

    def _give(self, worker: ActorState, m: ClusterMap, numbers: list[int]) -> None:
        """Send jobs to a worker, and before them what it needs of the function and the context."""
        now, shared = time.monotonic(), []
        if not worker.jobs:
            worker.given = worker.last_beat = now
        worker.jobs.update(dict.fromkeys(numbers, now))
        worker.asked = False
        assert worker.facts is not None
        for kind, value in (("function", m.function), ("context", m.context)):
            if getattr(worker, kind) is not value:
                shared.append(self._staff.stored(kind, value, self._pack, self.ledger, worker.facts["node"]))
                setattr(worker, kind, value)
        data = packed(Jobs(self.count, [(number, m.job(number)) for number in numbers]))
        self.ledger.bytes_out += len(data)
        worker.handle.give.remote(shared, data)

    def _pack(self, kind: str, value: object) -> bytes:
        try:
            return bytes(cloudpickle.dumps((kind, value)))
        except Exception as error:
            raise ConfigError(
                f"what worker processes are to run cannot be sent to them ({type(error).__name__}: {error}). "
                f"Make what it names inside the function itself, or give workers=0 and no cluster."
            ) from error

    def _listen(self, seconds: float, m: ClusterMap) -> Iterator[tuple[ActorState, list[bytes]]]:
        """Yield what workers say; wait up to `seconds` for the first. Those that are gone are lost here."""
        for worker, said in self._staff.listen(seconds):
            if isinstance(said, BaseException):
                self._lost(worker, "died", f"died ({first_line(said)})", m)
                continue
            messages, lines = said
            self.ledger.write(worker.name, lines)
            self.ledger.bytes_in += sum(map(len, messages))
            yield worker, messages

    def _hear(self, worker: ActorState, message: Any, m: ClusterMap) -> None:
        worker.last_beat = time.monotonic()
        match message:
            case ("ready", facts):
                self._welcome(worker, facts)
            case ("beat", steps):
                self._on_steps(steps)
            case ("more",):
                worker.asked = True
            case ("broken", text):
                self._broken(worker, text, m)
            case ("done", number, outcome):
                given = worker.jobs.pop(number, None)
                if not worker.jobs:
                    self.busy += time.monotonic() - worker.given
                if m.holds(number):
                    m.settle(number, outcome, None if given is None else time.monotonic() - given)

    def _welcome(self, worker: ActorState, facts: dict[str, Any]) -> None:
        """Note what a worker tells of its machine. Raises `ResourceError` if its software is another."""
        worker.facts, self._startup_deaths = facts, 0
        if facts["es_rl"] != es_rl.__version__:
            raise ResourceError(
                f"{facts['host']} has es_rl {facts['es_rl']}, and this machine {es_rl.__version__}. "
                f"Install the same version on all machines of the cluster."
            )
        self._first = self._first or facts
        other = differing(self._first["fingerprint"], facts["fingerprint"])
        worker.refused = bool(other) and self._strict
        if not other or facts["host"] in self._warned:
            return
        self._warned.add(facts["host"])
        what = f"{facts['host']} computes other bits than {self._first['host']} ({', '.join(other)})"
        if worker.refused:
            self._on_event(f"{what}, so it is left out (cluster.same_bits=strict)")
        else:
            self._on_event(
                f"{what}: theta depends on which of them computes a member. cluster.same_bits=strict leaves it out"
            )
        self._refuse_if_all(worker)

    def _refuse_if_all(self, worker: ActorState) -> None:
        if worker.refused and all(other.refused for other in self.workers):
            raise ResourceError("no machine of the cluster computes the bits of the first one, which is gone.")

    def _broken(self, worker: ActorState, text: str, m: ClusterMap) -> None:
        """Raise if what a worker is to run cannot be run on its machine; else it is lost."""
        if "ModuleNotFoundError" in text:
            raise ConfigError(
                f"worker {worker.name}: {text}. Give cluster.runtime_env.working_dir=DIRECTORY of the module, "
                f"or install it on all machines of the cluster."
            )
        self._lost(worker, "died", f"broke down ({text})", m)

    def _bury_the_hung(self, m: ClusterMap) -> None:
        now = time.monotonic()
        for worker in list(self.workers):
            if worker.jobs and now - worker.last_beat > self.hang_after:
                self._lost(worker, "hung", f"finished no step for {self.hang_after:g} s (hang_after)", m)

    def _lost(self, worker: ActorState, reason: str, text: str, m: ClusterMap) -> None:
        """Replace a worker. Put its jobs at the front of the queue; fail those that have lost too many workers.

        A worker that died with its machine does not count: a job is not to blame for that.
        """
        lost = [n for n in sorted(worker.jobs) if m.holds(n) and n - m.first not in m.outcomes and n not in m.waiting]
        lost = [n for n in lost if not any(n in other.jobs for other in self.workers if other is not worker)]
        again = {0: "", 1: ", its chunk is run again"}.get(len(lost), f", its {len(lost)} chunks are run again")
        self._on_event(f"worker {worker.name} {text}; it is replaced{again}")
        self.ledger.lost += 1
        self.ledger.repeated += len(lost)
        node = worker.facts["node"] if worker.facts else ""
        self._staff.replace(worker)
        if not node:
            self._startup_deaths += 1
            if self._startup_deaths >= DEATHS * self.count:
                raise ResourceError(f"workers cannot be started: the last one {text}.")
        for number in reversed(lost):
            losses = m.losses.setdefault(number, Losses())
            losses.hung += reason == "hung"
            losses.nodes += [node] if reason == "died" else []
            died = len(losses.nodes)
            if died >= DEATHS:
                alive = self._staff.nodes()
                died = sum(each in alive for each in losses.nodes)
            if died < DEATHS and losses.hung < HANGS:
                m.waiting.appendleft(number)
            else:
                m.settle(number, JobFailure(reason, f"the worker {text}, {died + losses.hung} times"))

    def _help_stragglers(self, m: ClusterMap) -> None:
        """Give a job that takes far too long to an idle worker as well."""
        if m.waiting:
            return
        for worker in self.workers:
            if worker.facts is None or worker.refused or worker.jobs:
                continue
            number = m.straggler(self.workers)
            if number is None:
                return
            m.twice.add(number)
            self.ledger.twice += 1
            self._give(worker, m, [number])

    def _say_if_alone(self) -> None:
        """Say once that no worker is left, and once that there are some again."""
        now = time.monotonic()
        if any(worker.facts for worker in self.workers):
            if self._alone_told:
                self._on_event("the cluster has workers again")
            self._alone_since, self._alone_told = now, False
        elif now - self._alone_since > WAIT_SECONDS and not self._alone_told:
            self._on_event("the cluster has no processor for a worker: the run waits until it has")
            self._alone_told = True


def _several(m: ClusterMap) -> bool:
    return hasattr(m.function, "stream")

"""A pool of workers on a Ray cluster, used like that of one machine: see `es_rl.workers.pool`.

A worker is an actor. The function and what all jobs of a `map` share are put into the object store, from which each
machine fetches them once. Machines may come and go: the jobs of lost workers run again elsewhere, to the same bits, and
each result counts once. The number of workers follows the cluster, unless it was given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Unpack

import cloudpickle

from es_rl.errors import ConfigError, EsRlError, ResourceError, text_of
from es_rl.workers.cluster.admission import Admission, lacks_module
from es_rl.workers.cluster.config import ClusterConfig
from es_rl.workers.cluster.connection import Connection
from es_rl.workers.cluster.ledger import Ledger
from es_rl.workers.cluster.staff import COLLECT_SECONDS, Staff
from es_rl.workers.cluster.state import ActorState, ClusterMap, Losses
from es_rl.workers.interface import Pool, Watch
from es_rl.workers.pool import DEATHS, HANGS, POLL_SECONDS, batch, pump_for_a_while
from es_rl.workers.worker import Function, JobFailure, Jobs, packed

BEGIN_SECONDS = 600.0  # limit from the placing of a worker to its first message; many may begin on one machine
WAIT_SECONDS = 30.0  # without any worker, until this is said
KEPT = "fingerprint.json"  # beside the workers' log: of the processor with which a run began
NODE_DIED = "node has died"  # in Ray's error
MISSING = "ModuleNotFoundError"


class ClusterWorkers(Pool):
    """A pool of actors: `count` of them, or as many as the cluster has processors for (None).

    Raises `ConfigError` or `ResourceError` if there is no such cluster, or if it has too few processors.
    """

    shares_memory = False

    def __init__(self, config: ClusterConfig, count: int | None, **watch: Unpack[Watch]) -> None:
        super().__init__(**watch)
        self._strict = config.same_bits == "strict"
        self.ledger = Ledger(self._log)
        self._begun = 0  # jobs, in all maps
        self._told: set[str] = set()  # why workers were left out
        self._startup_deaths, self._alone_since, self._alone_told = 0, time.monotonic(), False
        self._shown, self._shown_busy = time.monotonic(), 0.0  # when `figures` was last called, and `busy` then
        self._connection = Connection(config)
        try:
            kept = None if self._log is None else self._log.with_name(KEPT)
            self._admission = Admission(self._strict, self._on_event, kept)
            self._staff = Staff(config, count)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """End the workers, those of sibling pools, and what was started of the cluster."""
        super().close()
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

    def restart(self) -> None:
        self._staff.restart()

    def figures(self) -> dict[str, float]:
        """Return the numbers of machines and workers, and what was done, lost and sent since the last call."""
        begun = [worker.facts["node"] for worker in self.workers if worker.facts and not worker.refused]
        now = time.monotonic()
        share = (self.busy - self._shown_busy) / max(1e-9, (now - self._shown) * self.count)
        self._shown, self._shown_busy = now, self.busy
        counts = {"cluster/nodes": len(set(begun)), "cluster/actors": len(begun)}
        return {**counts, "cluster/utilisation": min(1.0, share), **self.ledger.figures()}

    def map(
        self,
        function: Function,
        context: object,
        jobs: Sequence[Any],
        *,
        on_result: Callable[[int, Any], None] = lambda index, outcome: None,
        pump: Callable[[], bool] | None = None,
    ) -> list[Any]:
        m = ClusterMap(function, context, jobs, on_result, self._begun, self._strict)
        self._begun += len(jobs)
        while not m.done:
            self._check()
            self._staff.adjust()
            self._say_if_alone()
            for worker in self.workers:
                if m.suits(worker):
                    self._give(worker, m, m.next(batch(m.function, len(m.waiting), self.count)))
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
        self._staff.give(worker, shared, data)

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
            if isinstance(said, BaseException) and getattr(said, "actor_init_failed", False) and self._others(worker):
                self._leave_out_unbegun(worker, why(said))
                continue
            if isinstance(said, BaseException):
                self._lost(worker, "died", f"died ({why(said)})", m, with_machine=NODE_DIED in str(said))
                continue
            messages, lines = said
            self.ledger.write(worker.name, lines)
            self.ledger.bytes_in += sum(map(len, messages))
            yield worker, messages

    def _hear(self, worker: ActorState, message: Any, m: ClusterMap) -> None:
        worker.last_beat = time.monotonic()
        match message:
            case ("ready", facts):
                self._welcome(worker, facts, m)
            case ("beat", steps):
                self._on_steps(steps)
            case ("more",):
                worker.asked = True
            case ("broken", text):
                self._broken(worker, text, m)
            case ("done", _, JobFailure("raised", text)) if MISSING in text and worker.facts:
                self._leave_out(worker, lacks_module(worker.facts["host"], text), m)
            case ("done", number, outcome):
                given = worker.jobs.pop(number, None)
                if not worker.jobs:
                    self.busy += time.monotonic() - worker.given
                if m.holds(number):
                    m.settle(number, outcome, None if given is None else time.monotonic() - given)

    def _welcome(self, worker: ActorState, facts: dict[str, Any], m: ClusterMap) -> None:
        worker.facts, self._startup_deaths = facts, 0
        if (error := self._admission.refusal(facts)) is not None:
            self._leave_out(worker, error, m)

    def _leave_out(self, worker: ActorState, error: EsRlError, m: ClusterMap) -> None:
        """Give a worker no more jobs. It stays, so that no other one begins there. Raises if no machine is left."""
        worker.refused = True
        m.waiting.extendleft(reversed(self._taken_from(worker, m)[0]))
        worker.jobs.clear()
        if self._staff.exhausted:
            raise error
        if str(error) not in self._told:
            self._told.add(str(error))
            self._on_event(f"{error} Until then it is left out")

    def _others(self, worker: ActorState) -> bool:
        return any(other.able for other in self.workers if other is not worker)

    def _leave_out_unbegun(self, worker: ActorState, text: str) -> None:
        """Leave out a place where no worker can begin, as without the package. Another one would fail there too."""
        worker.refused = worker.gone = True
        if text not in self._told:
            self._told.add(text)
            self._on_event(f"a worker cannot begin on its machine ({text}), and is left out")

    def _broken(self, worker: ActorState, text: str, m: ClusterMap) -> None:
        """Leave out a worker whose machine cannot import what it is to run; else it is lost."""
        if MISSING in text and worker.facts is not None:
            self._leave_out(worker, lacks_module(worker.facts["host"], text), m)
        else:
            self._lost(worker, "died", f"broke down ({text})", m)

    def _bury_the_hung(self, m: ClusterMap) -> None:
        now, limit = time.monotonic(), max(self.hang_after, 2 * COLLECT_SECONDS)
        for worker in list(self.workers):
            if worker.jobs and now - worker.last_beat > limit:
                self._lost(worker, "hung", f"finished no step for {limit:g} s (hang_after)", m)
            elif worker.facts is None and worker.placed and now - worker.placed > BEGIN_SECONDS:
                self._lost(worker, "died", f"did not begin within {BEGIN_SECONDS:g} s", m)

    def _taken_from(self, worker: ActorState, m: ClusterMap) -> tuple[list[int], list[int]]:
        """Return the jobs that a lost worker leaves undone: those that nobody has now, and those of another one too."""
        m.twice.difference_update(worker.jobs)
        undone = [n for n in sorted(worker.jobs) if m.holds(n) and n - m.first not in m.outcomes and n not in m.waiting]
        elsewhere = {n for other in self.workers if other is not worker for n in other.jobs}
        return [n for n in undone if n not in elsewhere], [n for n in undone if n in elsewhere]

    def _lost(self, worker: ActorState, reason: str, text: str, m: ClusterMap, *, with_machine: bool = False) -> None:
        """Replace a worker. Put its jobs at the front of the queue; fail those that have lost too many workers.

        A worker that died with its machine does not count: a job is not to blame for that.
        """
        (lost, elsewhere), node = self._taken_from(worker, m), worker.facts["node"] if worker.facts else ""
        again = {0: "", 1: ", its chunk is run again"}.get(len(lost), f", its {len(lost)} chunks are run again")
        self._on_event(f"worker {worker.name} {text}; it is replaced{again}")
        self.ledger.lost += 1
        self.ledger.repeated += len(lost)
        self._staff.replace(worker)
        self._startup_deaths += not node and not with_machine
        if self._startup_deaths >= DEATHS * self.count and not any(other.able for other in self.workers):
            raise ResourceError(f"workers cannot be started: the last one {text}.")
        for number in (*elsewhere, *reversed(lost)):
            losses = m.losses.setdefault(number, Losses())
            losses.hung += reason == "hung"
            losses.nodes += [node] if reason == "died" and not with_machine else []
            if number in elsewhere:
                continue
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
            if not worker.able or worker.jobs:
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
        if any(worker.able for worker in self.workers):
            if self._alone_told:
                self._on_event("the cluster has workers again")
            self._alone_since, self._alone_told = now, False
        elif now - self._alone_since > WAIT_SECONDS and not self._alone_told:
            self._on_event("the cluster has no worker: no processor is free, or they take long to begin. The run waits")
            self._alone_told = True


def why(error: BaseException) -> str:
    """Return the line of Ray's error that tells the most: the last one, if the worker could not be made."""
    lines = text_of(error).strip().splitlines() or [type(error).__name__]
    return lines[-1] if getattr(error, "actor_init_failed", False) else lines[0]

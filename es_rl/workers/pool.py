"""A pool of worker processes: send jobs, return results in order, handle deaths, hangs and exceptions.

    with Workers(count=4, log=path) as workers:
        outcomes = workers.map(function, context, jobs)      # outcomes[i] belongs to jobs[i]

A worker runs `function(context, job, beat)`. If the function has a `stream` (see `es_rl.workers.worker`), a worker may
ask for more jobs and run several side by side. It gets fewer at once as fewer jobs are left. `function` is sent to a
worker once and stays there. `context` is sent once for all jobs of a `map`. A job should be small.

`beat(n)` reports that n steps of work are done. A busy worker that sends nothing for `hang_after` seconds counts as
hung. A worker that died or hung is replaced. Its jobs run again, each alone, so a job must be a pure function. A job
that raises, or loses its worker too often, gets a `JobFailure` as its outcome.

Each worker has its own duplex pipe; there are no locks, queues or shared memory. So a worker can be killed at any
moment, and only its own pipe breaks. `count=0` runs everything in this process, for debugging.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Unpack

from multiprocess.connection import wait

from es_rl.errors import ResourceError
from es_rl.workers.fork_server import ForkServer
from es_rl.workers.guard import Guard
from es_rl.workers.interface import Pool, Watch
from es_rl.workers.processes import death, kill_process, limit_waiting, spawning
from es_rl.workers.states import MapState, Tries, WorkerState
from es_rl.workers.worker import Function, JobFailure, Jobs, Streaming, stream_of, tell, tell_function, work, work_off

SHARE = 4  # a worker gets waiting jobs / (SHARE · workers) at once, so that batches shrink towards the end
DEATHS = 5  # a job fails after this many deaths of its workers
HANGS = 2  # a job fails after this many hangs of its workers
STARTUP_SECONDS = 180.0  # limit from the start of a worker to its first message
PIPE_SECONDS = 30  # limit for sending or receiving one message, once begun
POLL_SECONDS = 0.25  # longest wait for messages before `check` is called again
PUMP_SECONDS, NAP_SECONDS = 0.005, 20e-6  # how long `pump` runs between two polls of workers; its sleep when idle


class Workers(Pool):
    """A pool of `count` processes. Make and use it in the main thread: workers die with the thread that made them."""

    shares_memory = True

    def __init__(self, count: int, **watch: Unpack[Watch]) -> None:
        super().__init__(**watch)
        self._startup_deaths = 0
        self._mark = uuid.uuid4().hex  # of all processes that workers start
        self._guard = Guard(self._mark) if count else None
        self._server = ForkServer(work, log=self._log, mark=self._mark)
        self._workers: list[WorkerState] = []
        self._count = count
        try:
            for slot in range(count):
                self._workers.append(self._start(slot))
        except BaseException:
            self.close()
            raise

    @property
    def count(self) -> int:
        return self._count

    def close(self) -> None:
        super().close()
        while self._workers:
            self._kill(self._workers.pop())
        self._server.close()
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid for worker in self._workers]

    def map(
        self,
        function: Function,
        context: object,
        jobs: Sequence[Any],
        *,
        on_result: Callable[[int, Any], None] = lambda index, outcome: None,
        pump: Callable[[], bool] | None = None,
    ) -> list[Any]:
        m = MapState(function, context, jobs, on_result, deque(range(len(jobs))))
        if self.count == 0:
            return self._inline(m)
        self._abandon()
        while len(m.outcomes) < len(jobs):
            self._check()
            for worker in list(self._workers):
                if m.suits(worker):
                    self._give(worker, m)
            for worker, message in self._listen(POLL_SECONDS if pump is None else 0.0):
                self._hear(worker, message, m)
            self._bury_the_hung(m)
            if pump is not None:
                pump_for_a_while(pump)
        return [m.outcomes[i] for i in range(len(jobs))]

    def _inline(self, m: MapState) -> list[Any]:
        def beat(steps: int) -> None:
            self._check()
            self._on_steps(steps)

        def take() -> tuple[int, Any] | None:
            self._check()
            return (m.waiting[0], m.jobs[m.waiting.popleft()]) if m.waiting else None

        while m.waiting:
            for index, outcome in work_off(stream_of(m.function), m.context, 1, take, beat):
                m.settle(index, outcome)
        return [m.outcomes[i] for i in range(len(m.jobs))]

    def _start(self, slot: int) -> WorkerState:
        ours, theirs = spawning.Pipe(duplex=True)
        limit_waiting(ours, PIPE_SECONDS)
        try:
            process = self._server.start(theirs, slot)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return WorkerState(slot, process, ours, time.monotonic())

    def _kill(self, worker: WorkerState) -> None:
        kill_process(worker.process)
        worker.pipe.close()

    def restart(self) -> None:
        self._server.close()
        for worker in list(self._workers):
            self._replace(worker)

    def _replace(self, worker: WorkerState) -> None:
        self._workers.remove(worker)
        self._kill(worker)
        self._workers.append(self._start(worker.slot))

    def _abandon(self) -> None:
        """Replace workers that still run jobs of an abandoned map."""
        for worker in list(self._workers):
            if worker.jobs:
                self._replace(worker)

    def _give(self, worker: WorkerState, m: MapState) -> None:
        chosen = m.next(batch(m.function, len(m.waiting), self.count))
        if not worker.jobs:
            worker.given = worker.last_beat = time.monotonic()
        worker.jobs.update(chosen)
        worker.asked = False
        try:
            if worker.function is not m.function:
                tell_function(worker.pipe, m.function)
                worker.function = m.function
            if worker.context is not m.context:
                worker.pipe.send(("context", m.context))
                worker.context = m.context
            tell(worker.pipe, Jobs(self.count, [(i, m.jobs[i]) for i in chosen]))
        except OSError:
            self._lost(worker, "died", "does not take its job", m)

    def _listen(self, seconds: float) -> Iterator[tuple[WorkerState, Any]]:
        """Yield messages; wait up to `seconds` for the first. A dead worker yields None after its last message."""
        by_pipe = {worker.pipe: worker for worker in self._workers}
        by_sentinel = {worker.process.sentinel: worker for worker in self._workers}
        at_hand = wait([*by_pipe, *by_sentinel], seconds)
        gone = {by_sentinel[item] for item in at_hand if item in by_sentinel}
        gone = {worker for worker in gone if worker.process.exitcode is not None}  # others have just begun
        for worker in {by_pipe[item] for item in at_hand if item in by_pipe} | gone:
            try:
                while worker.pipe.poll():
                    yield worker, worker.pipe.recv()
            except (EOFError, OSError):
                gone.add(worker)
            if worker in gone:
                yield worker, None

    def _hear(self, worker: WorkerState, message: Any, m: MapState) -> None:
        worker.last_beat = time.monotonic()
        match message:
            case None:
                self._lost(worker, "died", death(worker.process), m)
            case ("ready",):
                worker.ready, self._startup_deaths = True, 0
            case ("beat", steps):
                self._on_steps(steps)
            case ("more",):
                worker.asked = True
            case ("done", index, outcome):
                worker.jobs.discard(index)
                if not worker.jobs:
                    self.busy += time.monotonic() - worker.given
                m.settle(index, outcome)

    def _bury_the_hung(self, m: MapState) -> None:
        now = time.monotonic()
        for worker in list(self._workers):
            if worker.jobs and now - worker.last_beat > self.hang_after:
                text = f"finished no step for {self.hang_after:g} s (hang_after)"
                self._lost(worker, "hung", text, m)
            elif not worker.ready and now - worker.started > STARTUP_SECONDS:
                self._server.close()  # it may hang
                self._lost(worker, "died", f"did not start within {STARTUP_SECONDS:g} s", m)

    def _lost(self, worker: WorkerState, reason: str, text: str, m: MapState) -> None:
        """Replace a worker. Put its jobs at the front of the queue; fail those that have lost too many workers."""
        lost, pid, was_ready = sorted(worker.jobs), worker.process.pid, worker.ready
        again = {0: "", 1: ", its chunk is run again"}.get(len(lost), f", its {len(lost)} chunks are run again")
        self._on_event(f"worker {pid} {text}; it is replaced{again}")
        if not was_ready:
            self._startup_deaths += 1
            if self._startup_deaths >= DEATHS * max(1, self.count):
                raise ResourceError(f"workers cannot be started: the last one {text}. See {self._log}.")
        self._replace(worker)
        for index in reversed(lost):
            tries = m.tries.setdefault(index, Tries())
            tries.died += reason == "died"
            tries.hung += reason == "hung"
            if tries.died < DEATHS and tries.hung < HANGS:
                m.waiting.appendleft(index)
            else:
                m.settle(index, JobFailure(reason, f"the worker {text}, {tries.died + tries.hung} times"))


def batch(function: Function, waiting: int, workers: int) -> int:
    """Return how many waiting jobs a worker gets at once, at most: one if its function does one after the other."""
    return waiting // (SHARE * workers) if isinstance(function, Streaming) else 1


def pump_for_a_while(pump: Callable[[], bool]) -> None:
    """Call `pump` for `PUMP_SECONDS`. Naps are short because workers wait for it."""
    end = time.monotonic() + PUMP_SECONDS
    while time.monotonic() < end:
        if not pump():
            time.sleep(NAP_SECONDS)

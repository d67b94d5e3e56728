"""A model of a generation on many workers, by discrete events. It computes with times that `scale.py` has measured.

One process gives jobs and receives results, one after the other; workers compute side by side. Jobs are cut as
`es_rl.es.chunks.divide` cuts them. A worker may be slow, and nodes may be lost: then the rules of
`es_rl.workers.cluster` hold. Nothing here is a measurement.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np

from es_rl.es.chunks import TOGETHER, divide
from es_rl.workers.cluster.state import ENOUGH, SLOW, SLOW_SECONDS

HOUR = 3600.0


@dataclass(frozen=True)
class Costs:
    """Measured times, in seconds."""

    job: float  # of the parent, to give a job and to receive its result
    update: float  # of the parent in each generation, for each member
    step: float  # of a step of one simulation
    waiting: float = 0.0  # of the parent in each second, whatever it does,
    listening: float = 0.0  # and for each worker, which answers now and then even if it has no result
    detect: float = 10.0  # from the death of a node until its jobs run again
    start: float = 60.0  # from the death of a node until another one computes in its place

    def beside(self, workers: int) -> Costs:
        """Return the costs of a parent that also waits and listens: what it does for jobs takes longer."""
        left = max(0.01, 1 - self.waiting - self.listening * workers)
        return replace(self, job=self.job / left, waiting=0.0, listening=0.0)


@dataclass(frozen=True)
class Setting:
    workers: int
    population: int
    chunk: int = TOGETHER
    slow: float = 0.0  # share of workers that are slow
    factor: float = 10.0  # how many times as long these take
    losses: float = 0.0  # of each node, an hour
    node: int = 32  # workers of a node
    episodes: int = 1  # of each member
    whole: bool = False  # jobs are chunks, not divided further, as for noise that depends on the chunk


@dataclass
class _Map:
    """The state of the workers and of the jobs."""

    costs: Costs
    seconds: list[float]  # of each job on a worker that is not slow
    pace: np.ndarray  # (workers,) times that long
    events: list[tuple[float, str, int, int]] = field(default_factory=list)  # when, what, worker or node, job
    waiting: deque[int] = field(default_factory=deque)
    idle: list[int] = field(default_factory=list)  # a heap; may name workers that are busy or gone
    free: set[int] = field(default_factory=set)  # those that are idle indeed
    late: deque[int] = field(default_factory=deque)  # jobs that take far too long, while no worker is idle
    done: set[int] = field(default_factory=set)
    twice: set[int] = field(default_factory=set)
    holds: dict[int, int] = field(default_factory=dict)  # worker → its job
    since: dict[int, float] = field(default_factory=dict)  # worker → when it got that job
    parent: float = 0.0  # when the parent is free
    took: list[float] = field(default_factory=list)
    typical: tuple[int, float] = (0, 0.0)  # how many had finished when the median of their seconds was taken last

    def give(self, now: float, worker: int, job: int) -> None:
        self.parent = max(self.parent, now) + self.costs.job / 2
        self.holds[worker] = job
        end = self.parent + self.seconds[job] * self.pace[worker]
        heapq.heappush(self.events, (end, "done", worker, job))
        self.since[worker] = self.parent
        if len(self.took) >= ENOUGH:
            self._watch(worker)

    def finished(self, seconds: float) -> None:
        """Note what a job took. From some jobs on, it is known which of the others take far too long."""
        self.took.append(seconds)
        if len(self.took) == ENOUGH:
            for worker in self.holds:
                self._watch(worker)

    def _watch(self, worker: int) -> None:
        limit = self.since[worker] + max(SLOW_SECONDS, SLOW * self._median())
        heapq.heappush(self.events, (limit, "late", worker, self.holds[worker]))

    def _median(self) -> float:
        """Return the median of what jobs took, about: it is taken anew when there are a tenth more of them."""
        if len(self.took) >= 1.1 * self.typical[0]:
            self.typical = (len(self.took), median(self.took))
        return self.typical[1]

    def rest(self, worker: int) -> None:
        self.free.add(worker)
        heapq.heappush(self.idle, worker)

    def serve(self, now: float) -> None:
        """Give jobs to idle workers, and late jobs when no others are waiting."""
        while self.free and (self.waiting or self.late):
            job = (self.waiting or self.late).popleft()
            if job in self.done:
                continue
            while (worker := heapq.heappop(self.idle)) not in self.free:
                pass
            self.free.discard(worker)
            self.give(now, worker, job)


def map_seconds(setting: Setting, costs: Costs, lengths: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Return the seconds until all members are evaluated, and the seconds of simulation in them.

    `lengths` are steps of recorded episodes, of which a member draws one for each of its own.
    """
    steps = rng.choice(lengths, (setting.population, setting.episodes)).sum(axis=1)
    parts = _parts(setting)
    seconds = [float(costs.step * steps[part.start : part.stop].sum()) for part in parts]
    pace = np.where(rng.random(setting.workers) < setting.slow, setting.factor, 1.0)
    m = _Map(costs, seconds, pace, waiting=deque(range(len(seconds))))
    for worker in set(range(setting.workers)) - _away(setting, costs, rng):
        m.rest(worker)
    _plan_losses(setting, m, rng)
    m.serve(0.0)
    while len(m.done) < len(seconds):
        now, what, which, job = heapq.heappop(m.events)
        _happen(setting, m, now, what, which, job)
        m.serve(now)
    return m.parent, sum(seconds)


def efficiency(setting: Setting, costs: Costs, lengths: np.ndarray, *, generations: int = 3, seed: int = 0) -> float:
    """Return the share of the workers' time in which they simulate what is not computed twice."""
    rng, costs = np.random.Generator(np.random.Philox(key=seed)), costs.beside(setting.workers)
    took = work = 0.0
    for _ in range(generations):
        seconds, simulated = map_seconds(setting, costs, lengths, rng)
        took += seconds + costs.update * setting.population
        work += simulated
    return work / (setting.workers * took)


def _parts(setting: Setting) -> Sequence[range]:
    members = range(setting.population)
    if setting.whole:
        return [members[i : i + setting.chunk] for i in range(0, len(members), setting.chunk)]
    return divide(members, setting.workers, setting.chunk)


def _away(setting: Setting, costs: Costs, rng: np.random.Generator) -> set[int]:
    """Return the workers of nodes that are lost when a generation begins, and not yet replaced."""
    rate = setting.losses / HOUR * costs.start
    gone = rng.random(-(-setting.workers // setting.node)) < rate / (1 + rate)
    return {w for w in range(setting.workers) if gone[w // setting.node]} if not gone.all() else set()


def _plan_losses(setting: Setting, m: _Map, rng: np.random.Generator) -> None:
    """Draw when each node is lost next."""
    if setting.losses:
        for node in range(-(-setting.workers // setting.node)):
            heapq.heappush(m.events, (rng.exponential(HOUR / setting.losses), "lost", node, -1))


def _happen(setting: Setting, m: _Map, now: float, what: str, which: int, job: int) -> None:
    """Let one event happen."""
    if what == "done" and m.holds.get(which) == job:
        del m.holds[which]
        m.rest(which)
        m.parent = max(m.parent, now) + m.costs.job / 2
        if job not in m.done:
            m.done.add(job)
            m.finished(m.seconds[job] * m.pace[which])
    elif what == "late" and job not in m.done and job not in m.twice and m.holds.get(which) == job:
        m.twice.add(job)
        m.late.append(job)
    elif what == "again" and job not in m.done:
        m.waiting.appendleft(job)
    elif what == "back":
        m.rest(which)
    elif what == "lost":
        for worker in range(which * setting.node, min((which + 1) * setting.node, setting.workers)):
            m.free.discard(worker)
            if (lost := m.holds.pop(worker, None)) is not None:
                heapq.heappush(m.events, (now + m.costs.detect, "again", worker, lost))
            heapq.heappush(m.events, (now + m.costs.start, "back", worker, -1))

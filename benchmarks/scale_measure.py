"""Measurements of a pool on simulated nodes: its throughput with workers that sleep, bytes, and one machine."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any
from unittest import mock

import cloudpickle
import numpy as np
from simulated_nodes import simulated

from es_rl.rl.rollout.chunk import Chunk
from es_rl.workers.cluster import staff
from es_rl.workers.cluster.actor import Actor
from es_rl.workers.cluster.admission import software
from es_rl.workers.cluster.config import ClusterConfig
from es_rl.workers.cluster.pool import ClusterWorkers
from es_rl.workers.machine import use_one_thread
from es_rl.workers.worker import Jobs, packed, serve

HERE = Path(__file__).parent
PATHS = (str(HERE), str(HERE.parent))


class LightActor(Actor):
    """A worker that imports nothing but what it needs to sleep: a machine with few processors then holds many."""

    def _work(self, slot: int) -> None:
        import ray

        node = ray.get_runtime_context().get_node_id()
        told = {"host": node[:8], "node": node, "pid": os.getpid(), "software": software(), "fingerprint": {}}
        self._channel.send(("ready", told))
        serve(self._channel)


class Sleeper:
    """Play a chunk of `length` steps by sleeping `seconds` a step, and return as many bytes as a real result has."""

    def __init__(self, length: int, seconds: float, result: bytes) -> None:
        self._length, self._seconds, self._result = length, seconds, result

    def __call__(self, context: Any, job: Any, beat: Any) -> bytes:
        begun = time.monotonic()
        for step in range(1, self._length + 1):
            # Not `seconds` each time: a processor that many share wakes sleepers late, which is not what is measured.
            time.sleep(max(0.0, begun + step * self._seconds - time.monotonic()))
            beat(64)
        return self._result


def real_result(n: int = 64) -> bytes:
    """Return the pickled result of a chunk of n whole episodes, without statistics of observations."""
    from es_rl.rl.rollout.chunk import ChunkResult

    returns = np.random.default_rng(0).normal(size=n)
    return packed(ChunkResult(returns, returns.copy(), np.full(n, 1000.0), np.zeros((n, 0)), 1000 * n, None, [], 1.0))


def sizes(theta: dict[str, np.ndarray], *, n: int = 64, jobs: int = 4) -> dict[str, float]:
    """Return the bytes of a member out and in, and of theta for each node."""
    out = packed(Jobs(64, [(10_000 + i, Chunk("members", n * i, n)) for i in range(jobs)]))
    return {
        "out": len(out) / (n * jobs),
        "in": len(packed(("done", 10_000, None))) / n + len(real_result(n)) / n,
        "theta": len(cloudpickle.dumps(("context", theta))),
    }


@contextlib.contextmanager
def crew(nodes: int, most: int) -> Iterator[ClusterWorkers]:
    """Start `most` light actors on simulated nodes, and wait until all have begun."""
    usual = staff.Actor
    staff.Actor = LightActor  # type: ignore[misc]
    try:
        with simulated(nodes, cpus=-(-most // nodes), paths=PATHS) as cluster:
            config = ClusterConfig(address=cluster.address)
            with ClusterWorkers(config, most, hang_after=3600.0, on_event=print) as pool:
                while sum(worker.able for worker in pool.workers) < most:
                    pool.map(Sleeper(1, 0.0, b""), None, [0])
                    time.sleep(0.2)
                yield pool
    finally:
        staff.Actor = usual  # type: ignore[misc]


def throughput(pool: ClusterWorkers, actors: int, *, each: int, length: int, seconds: float) -> dict[str, float]:
    """Return what `actors` of a crew's workers do: each has `each` jobs."""
    by_node: dict[str, list[Any]] = {}
    for worker in pool.workers:
        by_node.setdefault(worker.facts["node"] if worker.facts else "", []).append(worker)
    in_turn = [worker for worker in chain(*zip_longest(*by_node.values())) if worker is not None]
    for i, worker in enumerate(in_turn):
        worker.refused = i >= actors
    pool._staff._wanted = actors
    pool._staff.adjust()
    result, jobs = real_result(), [Chunk("members", 64 * i, 64) for i in range(actors * each)]
    pool._staff.count = actors
    pool.figures()
    begun, used = time.perf_counter(), time.process_time()
    pool.map(Sleeper(length, seconds, result), None, jobs)
    wall, used = time.perf_counter() - begun, time.process_time() - used
    figures = pool.figures()
    job = length * seconds
    return {
        "actors": actors, "jobs": len(jobs), "wall": wall, "job_seconds": job, "length": length,
        "efficiency": len(jobs) * job / (actors * wall), "results_per_second": len(jobs) / wall,
        "parent_share": used / wall,
        "bytes_out": figures["cluster/bytes_out"] / (64 * len(jobs)),
        "bytes_in": figures["cluster/bytes_in"] / (64 * len(jobs)),
    }  # fmt: skip


def one_machine(keys: Sequence[str], rounds: int, log: Path) -> list[dict[str, float]]:
    """Return steps per second of a local pool and of `cluster.address=local`, in turn, with the same workers."""
    from es_rl import es
    from es_rl.rl import task as tasks
    from es_rl.rl.chunks import make_policy
    from es_rl.rl.config import parse_train
    from es_rl.workers.machine import available_processors
    from es_rl.workers.pool import Workers

    config = parse_train(["es.segment=0", *keys])
    params, count = es.ESParams.of(config), config.workers or available_processors()
    rows: list[dict[str, float]] = []
    address = ClusterConfig(address="local")
    log.parent.mkdir(parents=True, exist_ok=True)
    with Workers(count, log=log) as local, ClusterWorkers(address, count, log=log, hang_after=3600.0) as cluster:
        pools = {"pool": local, "cluster": cluster}
        spec = tasks.probe(local, config)
        policy = make_policy(config, spec)
        all_tasks = {name: tasks.RlTask(config, params, spec, pool) for name, pool in pools.items()}
        states = {name: es.init(policy) for name in pools}
        for number in range(rounds + 1):  # the first one only makes the environments
            row = {}
            for name in sorted(pools, reverse=bool(number % 2)):
                begun = time.perf_counter()
                scores = all_tasks[name].members(states[name])
                row[name] = scores.steps / (time.perf_counter() - begun)
            if number:
                rows.append(row)
    return rows


def simulating_share(env: str, *, seconds: float = 15.0) -> float:
    """Return the share of PPO's time that it spends in the simulator, measured within a short training on one core."""
    from es_rl.compare.config import BaselineConfig
    from es_rl.compare.opponents.clock import Meter
    from es_rl.compare.opponents.ppo_fast import ppo_fast
    from es_rl.envs.sb3_vector import FastVecEnv

    use_one_thread()
    spent, begun, step = 0.0, 0.0, FastVecEnv.step_wait

    def timed(self: FastVecEnv) -> Any:
        nonlocal spent, begun
        now = time.perf_counter()
        begun = begun or now
        try:
            return step(self)
        finally:
            spent += time.perf_counter() - now

    config = BaselineConfig(name="ppo_fast", env=env, measure=seconds)
    with mock.patch.object(FastVecEnv, "step_wait", timed):
        ppo_fast(config, Meter(config))
    return spent / (time.perf_counter() - begun)

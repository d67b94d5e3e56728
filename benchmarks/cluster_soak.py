"""Compare theta on one machine and on a cluster whose simulated machines are lost in every way: all kinds of training.

    python benchmarks/cluster_soak.py                                   # all cells; run it again to go on after a stop
    python benchmarks/cluster_soak.py only=kills/lowrank                # a cell alone: FAULT/KIND, or all of a FAULT
    python benchmarks/cluster_soak.py only=memory generations=300       # memory while a machine is lost every 10 s
    python benchmarks/cluster_soak.py only=calm generations=300         # memory while none is lost
    python benchmarks/cluster_soak.py show                              # the table of what is finished

A cell trains some generations and keeps the sha256 of theta. This script counts the results that each generation gets:
none may be missing or come twice. Finished cells are in OUT/cells.json.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import tiny_llama
from simulated_nodes import Nodes, simulated

from es_rl.config import parse
from es_rl.keys import key
from es_rl.llm.__main__ import main as llm
from es_rl.run import loop
from es_rl.run.atomic import write_json
from es_rl.text.__main__ import main as text
from es_rl.train import main as train
from es_rl.workers.cluster.config import ClusterConfig
from es_rl.workers.cluster.pool import ClusterWorkers
from es_rl.workers.pool import Workers

ROOT = Path(__file__).parents[1]
CHEETAH = ["env=HalfCheetah-v5", "env_kwargs.max_episode_steps=200", "es.population=32", "eval.every=0"]
WHOLE = [*CHEETAH, "es.segment=0"]
KINDS: dict[str, tuple[Callable[[list[str]], int], list[str]]] = {
    "linear": (train, [*WHOLE, "policy=linear", "es.noise=dense"]),
    "mlp": (train, [*WHOLE, "policy=mlp", "es.noise=dense", "chunk=4"]),
    "transformer": (train, [*WHOLE, "policy=transformer", "transformer.width=16", "es.noise=lowrank", "chunk=8"]),
    "lowrank": (train, [*WHOLE, "policy=mlp", "es.noise=lowrank"]),
    "orthogonal": (train, [*WHOLE, "policy=mlp", "es.noise=orthogonal", "chunk=8"]),
    "segments": (train, [*CHEETAH[:2], "policy=mlp", "es.segment=8", "credit.simulations=32", "eval.every=0"]),
    "robot": (train, ["env=es_rl/Quadruped-v0", "env_kwargs.max_episode_steps=50", *WHOLE[2:], "policy=mlp"]),
    "text": (text, ["es.population=32", "ctx=32", "gpt.width=32", "eval.bytes=64", "chunk=4"]),
    "llm": (llm, ["batch=2", "max_new_tokens=4", "es.population=8", "chunk=2", "eval.prompts=1", "reward=conciseness"]),
}
NODES = {"nodes1": 1, "nodes4": 4, "nodes8": 8, "kills": 3, "sigkill": 2, "drain": 2, "hung": 2, "memory": 2, "calm": 2}
REFERENCE = "pool"
FAULTS = (REFERENCE, "local", *NODES)
MEASURED = ("memory", "calm")  # for long trainings: only their memory is looked at, and their theta is not compared
KILLS = {"lowrank": 4}  # of machines in each generation, at the first results; 1 for other kinds
LOSS_SECONDS = 10.0  # between two losses of the measurement of memory
HANG_SECONDS = 20.0
DRAIN_SECONDS = 3.0


@dataclass(frozen=True)
class Config:
    only: str = key("", "FAULT, or FAULT/KIND; default: all but memory and calm")
    generations: int = key(5, "generations of each cell", low=1)
    out: str = key("runs/cluster_soak", "directory of all cells", path=True)


class Faults:
    """Counts the results of a pool's maps, and makes faults while they run."""

    def __init__(self, fault: str, kind: str, pool: Any, nodes: Nodes | None) -> None:
        self._kills = KILLS.get(kind, 1)
        self.fault, self.pool, self.nodes, self._map = fault, pool, nodes, pool.map
        self.jobs = self.made = self.missing = self.twice = 0
        self.totals: dict[str, float] = {}
        self.memory: list[dict[str, float]] = []
        self._last = time.monotonic()
        pool.map = self.map

    def map(self, function: Any, context: Any, jobs: Any, *, on_result: Any = None, pump: Any = None) -> list[Any]:
        counted: list[int] = []

        def count(index: int, outcome: Any) -> None:
            counted.append(index)
            if len(jobs) > 2:
                self._trouble(len(counted))
            if on_result is not None:
                on_result(index, outcome)

        outcomes: list[Any] = self._map(function, context, jobs, on_result=count, pump=pump)
        self.jobs += len(jobs)
        self.missing += len(set(range(len(jobs))) - set(counted))
        self.twice += len(counted) - len(set(counted))
        if self.fault in MEASURED:
            self.memory.append(memory(self.nodes))
        return outcomes

    def figures(self) -> dict[str, float]:
        """Return the pool's figures, and keep their sums."""
        found: dict[str, float] = ClusterWorkers.figures(self.pool)
        for name in ("lost", "repeated", "twice"):
            self.totals[name] = self.totals.get(name, 0) + found[f"cluster/{name}"]
        return found

    def _trouble(self, results: int) -> None:
        """Make a fault after so many results of a generation."""
        if (self.fault == "kills" and results <= self._kills) or (self.fault == "memory" and self._due()):
            self.nodes.kill()
            self.nodes.add()
        elif self.fault == "drain" and results == 1:
            self.nodes.drain(DRAIN_SECONDS)
            self.nodes.add()
        elif self.fault in ("sigkill", "hung") and results == 1:
            busy = [worker for worker in self.pool.workers if worker.jobs]
            if not busy:
                return
            os.kill(busy[0].facts["pid"], signal.SIGKILL if self.fault == "sigkill" else signal.SIGSTOP)
        else:
            return
        self.made += 1
        self._last = time.monotonic()

    def _due(self) -> bool:
        return time.monotonic() - self._last >= LOSS_SECONDS


def memory(nodes: Nodes) -> dict[str, float]:
    """Return the resident memory in MB of this process, and of the head's servers together."""
    servers = [entry.process.pid for kind in nodes.head.all_processes.values() for entry in kind]
    return {"parent": resident("self"), "servers": sum(map(resident, servers))}


def resident(process: int | str) -> float:
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
        return next((int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmRSS:")), 0.0)
    return 0.0


@contextlib.contextmanager
def workers(fault: str, out: Path) -> Iterator[tuple[Any, Nodes | None]]:
    """Start the workers that all trainings with a fault share: a worker takes seconds to begin."""
    with contextlib.ExitStack() as stack:
        if fault == REFERENCE:
            yield stack.enter_context(Workers(1)), None
            return
        count = NODES.get(fault)
        nodes = stack.enter_context(simulated(count, paths=(str(ROOT),))) if count else None
        config = ClusterConfig(address=nodes.address if nodes else "local", same_bits="strict")
        hang_after = HANG_SECONDS if fault == "hung" else 600.0
        pool = ClusterWorkers(config, None, log=out / f"{fault}.log", hang_after=hang_after, on_event=print)
        stack.callback(pool.close)
        yield pool, nodes


def cell(fault: str, kind: str, config: Config, pool: Any, nodes: Nodes | None, out: Path) -> dict[str, Any]:
    """Train once with a fault, and return what came of it."""
    main, keys = KINDS[kind]
    run, begun = out / f"{fault}-{kind}", time.monotonic()
    shutil.rmtree(run, ignore_errors=True)
    given = [*keys, *files(kind, out), f"generations={config.generations}", f"run={run}"]
    if main is train:
        given += ["video.every=-1", "eval.episodes=2"]
    faults, usual = Faults(fault, kind, pool, nodes), loop.open_pool
    if nodes is not None or fault == "local":
        pool.figures = faults.figures
    loop.open_pool = lambda *args, **more: _Kept(pool)
    try:
        code = main([*given, "workers=1"])
    finally:
        loop.open_pool = usual
        del pool.map
    if code:
        raise RuntimeError(f"{fault}/{kind} has ended with {code}")
    data = (run / "checkpoints" / "last" / "model.safetensors").read_bytes()
    counts = {name: getattr(faults, name) for name in ("jobs", "missing", "twice", "made")}
    lost = {f"workers_{name}": value for name, value in faults.totals.items()}
    found = {"sha256": hashlib.sha256(data).hexdigest(), "generations": config.generations, **counts, **lost}
    found["seconds"] = time.monotonic() - begun
    return found | ({"memory": faults.memory} if faults.memory else {})


class _Kept:
    """A pool that a training cannot close."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def close(self) -> None:
        """Do nothing."""


def files(kind: str, out: Path) -> list[str]:
    """Write what a kind of training reads, and return the keys that name it."""
    if kind == "text":
        (out / "corpus.txt").write_text("the quick brown fox jumps over the lazy dog. " * 100, encoding="utf-8")
        return [f"corpus={out / 'corpus.txt'}"]
    if kind == "llm":
        if not (out / "tiny").exists():
            tiny_llama.write(out / "tiny")
        rows = ({"prompt": word, "answer": word} for word in ("one", "two", "three", "four"))
        (out / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return [f"model={out / 'tiny'}", f"data={out / 'prompts.jsonl'}"]
    return []


def table(cells: dict[str, dict[str, Any]]) -> str:
    """Return all finished cells as a table."""
    lines = ["| fault / training | theta | results | lost or counted twice | faults | workers lost | jobs run again |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, c in cells.items():
        reference = cells.get(f"{REFERENCE}/{name.partition('/')[2]}", {})
        if "memory" in c or reference.get("generations") != c["generations"]:
            same = "not compared"
        else:
            same = "the same" if reference["sha256"] == c["sha256"] else "ANOTHER"
        numbers = (
            c["jobs"],
            c["missing"] + c["twice"],
            c["made"],
            c.get("workers_lost", 0),
            c.get("workers_repeated", 0),
        )
        lines.append(f"| {name} | {c['sha256'][:12]}, {same} | {' | '.join(f'{n:g}' for n in numbers)} |")
        if "memory" in c:
            lines.append(flat(c["memory"]))
    return "\n".join(lines)


def flat(taken: list[dict[str, float]]) -> str:
    """Return what the memory was in the second tenth and in the last tenth of a training, by medians."""
    tenth = max(1, len(taken) // 10)
    parts = []
    for name in ("parent", "servers"):
        values = [each[name] for each in taken]
        early, late = median(values[tenth : 2 * tenth]), median(values[-tenth:])
        parts.append(f"{name} {early:.0f} MB, then {late:.0f} MB")
    return f"| memory | {'; '.join(parts)} | | | | | |"


def main(argv: list[str]) -> int:
    """Run the cells that are not finished: each fault in a process of its own."""
    showing = argv[:1] == ["show"]
    config = parse(Config, argv[1:] if showing else argv)
    out = Path(config.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    store = out / "cells.json"
    fault, _, kind = config.only.partition("/")
    done = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    if fault and not showing:
        wanted = [kind] if kind else ["lowrank"] if fault in MEASURED else [*KINDS]
        wanted = [kind for kind in wanted if done.get(f"{fault}/{kind}", {}).get("generations") != config.generations]
        if wanted:
            with workers(fault, out) as (pool, nodes):
                for kind in wanted:
                    done[f"{fault}/{kind}"] = cell(fault, kind, config, pool, nodes, out)
                    write_json(store, done)
    elif not showing:
        for fault in [fault for fault in FAULTS if fault not in MEASURED]:
            command = [sys.executable, __file__, f"only={fault}", f"generations={config.generations}", f"out={out}"]
            subprocess.run(command, check=False)
        done = json.loads(store.read_text(encoding="utf-8"))
    print(table(done))
    compared = [c for name, c in done.items() if not name.startswith(MEASURED)]
    return int(any(c["missing"] + c["twice"] for c in compared))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

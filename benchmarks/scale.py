"""How far a run scales over workers: measured on simulated nodes, modelled beyond, and compared with PPO by cores.

    python benchmarks/scale.py measure nodes=1,8 actors=1,4,16,32 # throughput, the parent's cost, bytes
    python benchmarks/scale.py lengths env=Humanoid-v4 policy=linear obs_first=45 init=videos/policies/humanoid_linear
                                                                  # record episodes, and the parent's time for an update
    python benchmarks/scale.py local env=HalfCheetah-v4 rounds=5  # cluster.address=local against a local pool
    python benchmarks/scale.py cores results=DIRECTORY            # after how many cores es_rl is ahead of PPO
    python benchmarks/scale.py show                               # figures and tables of the documentation

Actors of `measure` sleep once a step of their chunk, as long as `step` simulations of Humanoid would take. All results
are kept in benchmarks/scale.json.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import scale_cores
import scale_measure
import scale_pages

from es_rl.config import pairs, parse
from es_rl.errors import ConfigError
from es_rl.keys import key
from es_rl.run.atomic import write_json
from es_rl.run.directory import versions
from es_rl.workers import machine

RAW = Path(__file__).with_name("scale.json")
STEP = 100e-6  # seconds of a step of Humanoid-v4 on one core: docs/performance.md
KEPT = 512  # lengths of episodes that are kept


@dataclass(frozen=True)
class MeasureConfig:
    nodes: list[int] = key([1, 2, 4, 8], "numbers of simulated nodes")
    actors: list[int] = key([1, 2, 4, 8, 16, 32, 64], "numbers of actors")
    each: int = key(4, "jobs of the longest episodes for each actor; more of shorter ones, in the same time", low=1)
    lengths: list[int] = key([100, 1000], "steps of an episode: short ones show what a result costs, long ones a wait")
    step: float = key(64 * STEP, "seconds of a step of 64 simulations", above=0)


def kept(part: str, found: Any) -> None:
    """Put results into the file of all results."""
    raw = json.loads(RAW.read_text(encoding="utf-8")) if RAW.exists() else {}
    about = {"date": time.strftime("%Y-%m-%d"), "machine": machine.description(), "versions": versions()}
    raw[part] = {"found": found, "command": " ".join(["python benchmarks/scale.py", *sys.argv[1:]]), **about}
    write_json(RAW, raw)
    print(json.dumps(found, indent=1))


def measure(argv: Sequence[str]) -> None:
    """Measure every number of actors on every number of nodes."""
    config, rows = parse(MeasureConfig, argv), []
    for nodes in config.nodes:
        with scale_measure.crew(nodes, max(config.actors)) as pool:
            for actors, length in product(config.actors, config.lengths):
                one = {"each": config.each * max(config.lengths) // length, "length": length, "seconds": config.step}
                rows.append({"nodes": nodes} | scale_measure.throughput(pool, actors, **one))
                print(rows[-1])
        theta = {"weight": np.zeros((64, 348), np.float32), "hidden": np.zeros((64, 64), np.float32)}
        kept("measured", {"rows": rows, "bytes": scale_measure.sizes(theta)})


def lengths(argv: Sequence[str]) -> None:
    """Train in this process, from the policy of `init` if it is given.

    Keep the lengths of the last generations' episodes, and the parent's time for the update of a member.
    """
    from es_rl import es
    from es_rl.rl import agent
    from es_rl.rl import task as tasks
    from es_rl.rl.chunks import make_policy
    from es_rl.rl.config import parse_train
    from es_rl.workers.pool import Workers

    keys = pairs(argv)
    generations = int(keys.pop("generations", 30))
    config = parse_train([f"{name}={value}" for name, value in ({"es.segment": "0"} | keys).items()])
    taken: list[np.ndarray] = []
    updates: list[float] = []
    with Workers(0) as pool:
        usual = pool.map

        def recorded(*args: Any, **more: Any) -> list[Any]:
            outcomes = usual(*args, **more)
            taken.extend(outcome.lengths for outcome in outcomes)
            return outcomes

        spec, params = tasks.probe(pool, config), es.ESParams.of(config)
        pool.map = recorded  # type: ignore[method-assign]
        task, state = tasks.RlTask(config, params, spec, pool), es.init(make_policy(config, spec))
        if config.init:
            state = agent.start_from(Path(config.init), state)
        for _ in range(generations):
            scores = task.members(state)
            begun = time.process_time()  # one thread computes, and others may use its processor
            state = es.tell(params, state, scores.fitness, scores.buffers)[0]
            updates.append((time.process_time() - begun) / len(scores.fitness))
    last = np.concatenate(taken[len(taken) // 2 :])
    drawn = np.sort(last)[np.linspace(0, len(last) - 1, min(KEPT, len(last))).astype(int)]
    numbers = {"parameters": sum(p.size for p in es.arrays(state).values()), "update": float(np.median(updates))}
    kept("lengths", {"env": config.env, "lengths": drawn.astype(int).tolist(), **numbers})


def local(argv: Sequence[str]) -> None:
    """Compare the throughput of `cluster.address=local` with that of a local pool."""
    keys = {"env": "HalfCheetah-v4", "workers": "1"} | pairs(argv)
    rounds = int(keys.pop("rounds", 5))
    log = Path("runs/scale_local.log").resolve()
    rows = scale_measure.one_machine([f"{k}={v}" for k, v in keys.items()], rounds, log)
    ratio = float(np.median([row["cluster"] / row["pool"] for row in rows]))
    kept("local", {"rows": rows, "ratio": ratio})


def cores(argv: Sequence[str]) -> None:
    """Compute after how many cores es_rl is ahead, for all finished comparisons in a directory."""
    keys = pairs(argv)
    folder = Path(keys.pop("results", "runs/results"))
    given = keys.pop("simulating", None)
    found = sorted(path.parent for path in folder.glob("*/curves.csv"))
    if not found:
        raise ConfigError(f"results={folder}: has no comparison. Give a directory with results of es_rl.compare.")
    rows = []
    for each in found:
        env = json.loads((each / "results.json").read_text(encoding="utf-8"))["env"]
        rate = scale_cores.rates(json.loads((each / "results.json").read_text(encoding="utf-8")))
        if {scale_cores.OURS, scale_cores.THEIRS} - rate.keys():
            print(f"{env}: left out, since one of both has no result")
            continue
        share = float(given) if given else scale_measure.simulating_share(env)
        rows += scale_cores.compare(each, share)
    kept("cores", rows)


VERBS: dict[str, Callable[[Sequence[str]], None]] = {
    "measure": measure, "lengths": lengths, "local": local, "cores": cores,
    "show": lambda argv: scale_pages.write(json.loads(RAW.read_text(encoding="utf-8"))),
}  # fmt: skip


def main(argv: Sequence[str]) -> int:
    if not argv or argv[0] not in VERBS:
        print(__doc__)
        return 2
    VERBS[argv[0]](argv[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Find the threads and processes that make an opponent fastest on this machine, by short trials.

All candidates are tried in turn, `ROUNDS` times each, so that other load on the machine affects all alike. The choice
is saved in the comparison's directory and holds for all seeds. The number of environments is not tried: it is a setting
of the algorithm, because a rollout has a fixed number of steps in each environment.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from es_rl import envs
from es_rl.compare.child import call
from es_rl.compare.opponents.rl_zoo import PPO
from es_rl.rl.presets import family
from es_rl.workers.machine import available_processors

FILE = "calibration.json"
ROUNDS = 2
SECONDS = 3.0  # a trial measures for at least this long, and at least one update
GROWING = ("popsize_max", "num_interactions")  # settings that let the population of EvoTorch grow
PATIENCE = 300.0  # seconds after which a trial counts as hung


@dataclass(frozen=True)
class Candidate:
    """One way to run an opponent. `physics_threads` is for one that steps many simulations in one process."""

    threads: int = 1
    processes: int = 1
    physics_threads: int | None = None

    def __str__(self) -> str:
        return ", ".join(counted(count, name) for name, count in self.parts().items())

    def parts(self) -> dict[str, int]:
        """Return the counts that are set, by key."""
        return {name: count for name, count in asdict(self).items() if count is not None}

    def keys(self) -> list[str]:
        """Return the counts as command-line arguments."""
        return [f"{name}={count}" for name, count in self.parts().items()]


def counted(count: int, name: str) -> str:
    """Return a count with its unit, such as 1 thread or 2 physics threads."""
    plural = name.replace("_", " ")
    singular = plural.removesuffix("es" if plural.endswith("sses") else "s")
    return f"{count} {singular if count == 1 else plural}"


def candidates(name: str, env: str, processors: int, given: Mapping[str, int] | None = None) -> list[Candidate]:
    """Return the candidates for this many processors; threads and processes in `given` are fixed."""
    fixed = {key: count for key, count in (given or {}).items() if key in ("threads", "processes")}
    simulations = (given or {}).get("environments")
    return list(dict.fromkeys(replace(way, **fixed) for way in _ways(name, env, processors, simulations)))


def _ways(name: str, env: str, n: int, simulations: int | None) -> list[Candidate]:
    """Return all ways to run an opponent on n processors, with this many environments if they are given."""
    if n == 1:
        return [Candidate()]
    threads = [Candidate(), Candidate(threads=n)]
    if name == "ppo_fast" and envs.choose_backend(env) == "batch":
        return [replace(way, physics_threads=count) for way in threads for count in (1, n)]
    if name in ("sac", "ppo_fast"):  # without a fast environment, ppo_fast simulates in n processes
        return threads
    if name == "ppo":
        simulations = simulations or PPO.get(family(env), {}).get("n_envs", 1)
        return [*threads, *([replace(way, processes=simulations) for way in threads] if simulations > 1 else [])]
    if name in ("ars", "evotorch"):
        doubled = [1 << i for i in range(n.bit_length()) if 1 << i < n]
        return [Candidate(processes=count) for count in (*doubled, n)]
    return threads[:1]


def shorter(name: str, processors: int) -> list[str]:
    """Return settings that make updates come sooner in a trial but leave a step as it is."""
    return {
        "sac": ["settings.learning_starts=256"],
        "ars": [f"settings.n_delta={processors}", f"settings.n_top={processors}"],
        "evotorch": [f"settings.popsize={8 * processors}", *(f"settings.{key}=null" for key in GROWING)],
    }.get(name, [])


def choose(name: str, env: str, out: Path, keys: Sequence[str], given: Mapping[str, int]) -> None:
    """Find and save the fastest candidate, unless it is already known or there is only one.

    `keys` are those of the opponent's training. `given` are the resources that the command line sets.
    """
    ways = candidates(name, env, available_processors(), given)
    if len(ways) == 1 or _known(name, out, given):
        return
    speeds: list[list[float]] = [[] for _ in ways]
    more = [f"environments={given['environments']}"] if "environments" in given else []
    for _ in range(ROUNDS):
        for way, found in zip(ways, speeds, strict=True):
            found.append(_speed([*keys, *more, *shorter(name, available_processors()), *way.keys()], out))
    best = int(np.argmax(np.median(speeds, axis=1)))
    tried = [way.parts() | {"steps_per_second": found} for way, found in zip(ways, speeds, strict=True)]
    noted = _conditions(given) | {"chosen": ways[best].parts(), "tried": tried}
    (out / FILE).write_text(json.dumps(_read(out) | {name: noted}, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"   {_sentence(ways, speeds, best)}\n")
    sys.stdout.flush()


def chosen(name: str, out: Path, given: Mapping[str, int]) -> list[str]:
    """Return the chosen and the given resources as command-line arguments."""
    counts = {**given, **_known(name, out, given).get("chosen", {})}
    return [f"{key}={count}" for key, count in counts.items()]


def tried(name: str, out: Path, given: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return every candidate with its steps per second; empty if none was tried."""
    found: list[dict[str, Any]] = _known(name, out, given).get("tried", [])
    return found


def _known(name: str, out: Path, given: Mapping[str, int]) -> dict[str, Any]:
    """Return what was found under the same conditions; empty if nothing was."""
    known: dict[str, Any] = _read(out).get(name, {})
    return known if {**known, **_conditions(given)} == known else {}


def _conditions(given: Mapping[str, int]) -> dict[str, Any]:
    return {"processors": available_processors(), "given": dict(given)}


def _speed(keys: list[str], out: Path) -> float:
    """Return the steps per second of one trial; 0 if it failed, since the training will say why."""
    with tempfile.TemporaryDirectory(dir=out, prefix=".trial-") as folder:
        given = [*keys, f"out={folder}", f"measure={SECONDS:g}"]
        if call(Path(folder), "es_rl.compare.baselines", given, seconds=PATIENCE):
            return 0.0
        return float(json.loads((Path(folder) / "speed.json").read_text(encoding="utf-8"))["steps_per_second"])


def _sentence(ways: Sequence[Candidate], speeds: Sequence[Sequence[float]], best: int) -> str:
    told = [f"{way}: {np.median(found):.0f}" for way, found in zip(ways, speeds, strict=True)]
    return f"steps per second with {'; '.join(told)}. Taken: {ways[best]}"


def _read(out: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((out / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found

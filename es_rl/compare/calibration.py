"""What an opponent runs on: the threads and processes that make it fastest here, found by short trials.

All candidates are tried in turn, each `ROUNDS` times, so that what else the machine does hits all alike. What is
chosen is kept in the comparison's directory and holds for all seeds.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from es_rl import envs
from es_rl.compare.child import call
from es_rl.compare.rl_zoo import PPO
from es_rl.presets import family
from es_rl.processes import available_processors

FILE = "calibration.json"
ROUNDS = 2
SECONDS = 3.0  # of each trial, at least one update long
GROWING = ("popsize_max", "num_interactions")
PATIENCE = 300.0  # seconds after which a trial counts as hung


@dataclass(frozen=True)
class Candidate:
    """One way to run an opponent."""

    threads: int = 1
    processes: int = 1

    def __str__(self) -> str:
        return f"{self.threads} threads, {self.processes} processes"

    def keys(self) -> list[str]:
        """As the command line has it."""
        return [f"threads={self.threads}", f"processes={self.processes}"]


def candidates(name: str, env: str, processors: int) -> list[Candidate]:
    """What to try on so many processors; a single candidate is not tried but taken."""
    threads = [Candidate(), Candidate(threads=processors)]
    if processors == 1:
        return threads[:1]
    if name == "sac" or (name == "ppo_fast" and envs.choose_backend(env) == "batch"):
        return threads
    if name == "ppo":
        n = PPO.get(family(env), {}).get("n_envs", 1)
        return [*threads, *([Candidate(c.threads, n) for c in threads] if n > 1 else [])]
    if name in ("ars", "evotorch"):
        doubled = [1 << i for i in range(processors.bit_length()) if 1 << i < processors]
        return [Candidate(processes=p) for p in (*doubled, processors)]
    return threads[:1]


def shorter(name: str, processors: int) -> list[str]:
    """Settings of a trial that leave a step as it is but make an update come sooner."""
    return {
        "sac": ["settings.learning_starts=256"],
        "ars": [f"settings.n_delta={processors}", f"settings.n_top={processors}"],
        "evotorch": [f"settings.popsize={8 * processors}", *(f"settings.{key}=null" for key in GROWING)],
    }.get(name, [])


def choose(name: str, env: str, out: Path, keys: Sequence[str]) -> None:
    """Find and note what is fastest, unless it is known already; `keys` are those of the opponent's training."""
    processors, known = available_processors(), _read(out)
    ways = candidates(name, env, processors)
    if len(ways) == 1 or known.get(name, {}).get("processors") == processors:
        return
    speeds: list[list[float]] = [[] for _ in ways]
    for _ in range(ROUNDS):
        for way, found in zip(ways, speeds, strict=True):
            found.append(_speed([*keys, *shorter(name, processors), *way.keys()], out))
    best = int(np.argmax(np.median(speeds, axis=1)))
    tried = [asdict(way) | {"steps_per_second": found} for way, found in zip(ways, speeds, strict=True)]
    noted = {"processors": processors, "chosen": asdict(ways[best]), "tried": tried}
    (out / FILE).write_text(json.dumps(known | {name: noted}, indent=1) + "\n")
    sys.stdout.write(f"   {_sentence(ways, speeds, best)}\n")
    sys.stdout.flush()


def chosen(name: str, out: Path) -> list[str]:
    """Keys of what was chosen, or nothing."""
    known = _read(out).get(name, {})
    return Candidate(**known["chosen"]).keys() if known.get("processors") == available_processors() else []


def tried(name: str, out: Path) -> list[dict[str, Any]]:
    """Every candidate with its steps per second, or nothing."""
    known = _read(out).get(name)
    return known["tried"] if known else []


def _speed(keys: list[str], out: Path) -> float:
    """Steps per second of one trial, 0 if it failed: the training will say why."""
    with tempfile.TemporaryDirectory(dir=out, prefix=".trial-") as folder:
        given = [*keys, f"out={folder}", f"measure={SECONDS:g}"]
        if call(Path(folder), "es_rl.compare.baselines", given, seconds=PATIENCE):
            return 0.0
        return float(json.loads((Path(folder) / "speed.json").read_text())["steps_per_second"])


def _sentence(ways: Sequence[Candidate], speeds: Sequence[Sequence[float]], best: int) -> str:
    told = [f"{way}: {np.median(found):.0f}" for way, found in zip(ways, speeds, strict=True)]
    return f"steps per second with {'; '.join(told)}. Taken: {ways[best]}"


def _read(out: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((out / FILE).read_text())
    except (OSError, ValueError):
        return {}
    return found

"""After how many cores es_rl reaches a return before PPO on the same machine: from comparisons on one core.

A comparison (`python -m es_rl.compare`) gives curves of returns by environment steps, and steps per second. With more
cores, only a part of the time becomes shorter. For es_rl, this part is measured in its runs: the time in which workers
play. For PPO it is the time inside the simulator, measured in a short training; its gradient steps stay on one core, as
those of small networks do in Stable-Baselines3. Both are computed, not measured, beyond one core.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from es_rl.config import read_file
from es_rl.rl.config import Config
from es_rl.run import CONFIG

OURS, THEIRS = "es", "ppo_fast"
CORES = 8192  # most that are looked at


@dataclass(frozen=True)
class Trainer:
    """What a trainer needs on one core."""

    steps: float | None  # environment steps until a return; None: never in this training
    rate: float  # steps per second
    serial: float  # share of the time that more cores do not shorten
    parts: int = CORES  # cores that it can use at most

    def seconds(self, cores: int) -> float | None:
        """Return the seconds until the return on so many cores (Amdahl's law)."""
        if self.steps is None:
            return None
        return self.steps / self.rate * (self.serial + (1 - self.serial) / min(cores, self.parts))


def crossover(ours: Trainer, theirs: Trainer) -> int | None:
    """Return the least number of cores with which ours is there first; None if there is none up to `CORES`."""
    if ours.steps is None:
        return None
    if theirs.steps is None:
        return 1
    for cores in range(1, CORES + 1):
        if ours.seconds(cores) <= theirs.seconds(cores):  # type: ignore[operator]
            return cores
    return None


def reached(curve: Sequence[tuple[float, float]], target: float) -> float | None:
    """Return the steps at which a curve (steps, return) first reaches a return, between two of its points by a line."""
    before = None
    for steps, value in curve:
        if value >= target:
            if before is None:
                return steps
            return before[0] + (steps - before[0]) * (target - before[1]) / (value - before[1])
        before = (steps, value)
    return None


def curves(folder: Path) -> dict[str, dict[int, list[tuple[float, float]]]]:
    """Return the curves of a comparison: contender → seed → (steps, return) in their order."""
    found: dict[str, dict[int, list[tuple[float, float]]]] = {}
    with (folder / "curves.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["return"]:
                point = (float(row["env_steps"]), float(row["return"]))
                found.setdefault(row["contender"], {}).setdefault(int(row["seed"]), []).append(point)
    return found


def serial_share(metrics: Path) -> float:
    """Return the median share of a generation's time in which workers do not play, of a run of es_rl on one core."""
    shares = []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        r = json.loads(line)
        if "time/rollout" in r and "time/update" in r:
            shares.append(r["time/update"] / (r["time/update"] + r["time/rollout"]))
        elif "time/utilisation" in r:
            shares.append(1 - min(1.0, r["time/utilisation"]))
    return median(shares)


def most_cores(config: Path) -> int:
    """Return how many cores a run of es_rl can use: one for each simulation of judged steps, or for each member."""
    keys = read_file(config, Config)
    return keys["credit.simulations"] if keys["es.segment"] else keys["es.population"]


def rates(results: dict) -> dict[str, float]:
    """Return the median steps per second of each contender over its seeds."""
    found: dict[str, list[float]] = {}
    for run in results["runs"]:
        if run.get("seconds") and run.get("env_steps"):
            found.setdefault(run["name"], []).append(run["env_steps"] / run["seconds"])
    return {name: median(each) for name, each in found.items()}


def median_steps(of_seeds: dict[int, list[tuple[float, float]]], target: float) -> float | None:
    """Return the median over seeds of the steps until a return; None if fewer than half of the seeds reach it."""
    steps = sorted(float("inf") if (s := reached(c, target)) is None else s for c in of_seeds.values())
    middle = steps[len(steps) // 2]  # of an even number, the slower of the two
    return None if middle == float("inf") else middle


def best(of_seeds: dict[int, list[tuple[float, float]]]) -> float:
    """Return the median over seeds of the highest return of each curve."""
    return median(max(value for _, value in curve) for curve in of_seeds.values())


def compare(folder: Path, simulating: float, shares: Sequence[float] = (0.5, 0.75, 1.0)) -> list[dict]:
    """Return the crossover on one task, for shares of the best return of PPO. `simulating`: PPO's share in simulation.

    Raises `OSError` or `KeyError` for a comparison without both contenders.
    """
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    both, rate = curves(folder), rates(results)
    runs = sorted(folder.glob(f"{OURS}-*/run"))
    serial = median(serial_share(run / "metrics.jsonl") for run in runs)
    environments = next(run["resources"]["environments"] for run in results["runs"] if run["name"] == THEIRS)
    rows = []
    for share in shares:
        target = share * best(both[THEIRS])
        ours = Trainer(median_steps(both[OURS], target), rate[OURS], serial, most_cores(runs[0] / CONFIG))
        theirs = Trainer(median_steps(both[THEIRS], target), rate[THEIRS], 1 - simulating, environments)
        row = {"env": results["env"], "share": share, "return": target, "cores": crossover(ours, theirs)}
        rows.append(row | {"seeds": len(both[OURS]), OURS: vars(ours), THEIRS: vars(theirs)})
    return rows

"""Time the flattening of one observation: es_rl's plan, made once, against Gymnasium's `spaces.flatten`.

    python benchmarks/observations.py
    python benchmarks/observations.py rounds=20 calls=5000

All ways take turns in each round. Prints the median of their microseconds a call, and Gymnasium's time as a multiple of
the plan's. `every` makes the plan anew for every observation.
"""

import statistics
import sys
import time
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from es_rl.cli import run
from es_rl.config import parse
from es_rl.envs.spaces import Flattener
from es_rl.envs.spaces import flatten as planned_anew
from es_rl.keys import key


def box(*shape):
    return spaces.Box(-1.0, 1.0, shape, np.float64)


LEG = spaces.Dict(joints=box(3), contact=spaces.MultiBinary(1), phase=spaces.Discrete(2))
IMAGE = spaces.Box(0, 255, (7, 7, 3), np.uint8)
SPACES = {
    "a vector of 27": box(27),
    "a goal: three vectors": spaces.Dict(observation=box(25), achieved_goal=box(3), desired_goal=box(3)),
    "a grid: an image and a direction": spaces.Dict(image=IMAGE, direction=spaces.Discrete(4)),
    "nested: twelve parts": spaces.Dict({f"leg{i}": LEG for i in range(4)}),
}


@dataclass(frozen=True)
class ObservationsConfig:
    rounds: int = key(10, "rounds in which all ways take turns", low=1)
    calls: int = key(2000, "observations that each way flattens in a round", low=1)


def microseconds(flatten, obs, calls):
    """Return the microseconds of one call."""
    begun = time.perf_counter()
    for _ in range(calls):
        flatten(obs)
    return (time.perf_counter() - begun) / calls * 1e6


def main(argv):
    config = parse(ObservationsConfig, argv)
    print("| observation | Gymnasium, µs | plan, µs | every, µs | Gymnasium / plan |\n|---|---|---|---|---|")
    for name, space in SPACES.items():
        space.seed(0)
        obs, plan = space.sample(), Flattener(space)
        ways = [
            lambda x, space=space: spaces.flatten(space, x),
            plan,
            lambda x, space=space: planned_anew(space, x),
        ]
        if not all(np.array_equal(ways[0](obs), way(obs)) for way in ways):
            raise AssertionError(f"{name}: the ways differ")
        times = [[microseconds(way, obs, config.calls) for way in ways] for _ in range(config.rounds)]
        medians = [statistics.median(column) for column in zip(*times, strict=True)]
        cells = " | ".join(f"{value:.1f}" for value in medians)
        print(f"| {name} | {cells} | {medians[0] / medians[1]:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    run(main, sys.argv[1:])

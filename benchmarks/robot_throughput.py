"""Measure the steps per second of a declared robot's simulations, and of their physics alone.

    python benchmarks/robot_throughput.py                                       # es_rl/Quadruped-v0
    python benchmarks/robot_throughput.py env=es_rl/QuadrupedTerrain-v0 size=64 rounds=20 general=0

Prints a Markdown table. The first row is `Batch.step` alone, with the same actions and the same varied fields of the
model. The second one is the declared task: actions, rewards, ends, metrics, noise, commands, pushes, restarts. The last
row is the task as a Gymnasium environment, one simulation after another, as the general backend steps it (`general=0`
leaves it out). Rows alternate, so that a machine with varying speed slows all alike; a ratio is the median over rounds.
"""

import statistics
import sys
import time
from dataclasses import dataclass
from functools import partial

import gymnasium
import numpy as np
from robot_physics import RobotPhysics

import es_rl.envs
from es_rl.cli import run
from es_rl.config import parse
from es_rl.keys import key
from es_rl.workers.machine import use_one_thread

PHYSICS, DECLARED, GENERAL = "`Batch.step` alone", "the declared task", "Gymnasium's interface, one by one"


@dataclass(frozen=True)
class Keys:
    env: str = key("es_rl/Quadruped-v0", "id of a declared robot")
    size: int = key(128, "simulations side by side", low=1)
    steps: int = key(50, "steps of a measurement", low=1)
    rounds: int = key(10, "measurements of each row", low=1)
    general: int = key(4, "simulations of the last row; 0 leaves it out", low=0)


def seconds(step, actions):
    start = time.perf_counter()
    for one in actions:
        step(one)
    return time.perf_counter() - start


def declared(simulations, restarts):
    """Return a step of the declared task, with restarts."""
    everyone = np.arange(len(simulations._everyone))

    def step(actions):
        _, _, terminated, truncated = simulations.step(everyone, actions)
        if len(over := np.flatnonzero(terminated | truncated)):
            simulations.reset(over, [next(restarts) for _ in over])

    return step


def general(env, restarts):
    """Return a step of the task as Gymnasium's environment: some simulations of it, one after another."""

    def step(actions):
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset(seed=next(restarts))

    return step


def main(argv):
    keys = parse(Keys, argv)
    use_one_thread()
    simulations, env = es_rl.envs.make(keys.env, keys.size), gymnasium.make(keys.env)
    source, restarts = np.random.default_rng(0), iter(range(10**6, 10**9))
    everyone = np.arange(keys.size)
    simulations.reset(everyone, range(keys.size))
    env.reset(seed=0)
    physics, found = RobotPhysics(simulations), {PHYSICS: [], DECLARED: [], GENERAL: []}
    for number in range(keys.rounds + 1):
        actions = source.uniform(-0.3, 0.3, (keys.steps, keys.size, simulations.model.nu)).astype(np.float32)
        physics.begin()
        played = keys.steps * keys.size
        speeds = [
            played / seconds(partial(physics.step, everyone), actions),
            played / seconds(declared(simulations, restarts), actions),
        ]
        if keys.general:
            some = actions[:, : keys.general]
            speeds.append(keys.steps * some.shape[1] / seconds(general(env, restarts), some))
        if number:  # the first round warms up
            for rows, speed in zip(found.values(), speeds, strict=False):
                rows.append(speed)
    print(f"{keys.env}, {keys.size} simulations, one thread\n\n| simulations | steps/s | ratio |\n|---|---|---|")
    for name, rows in found.items():
        if rows:
            ratio = statistics.median(one / base for one, base in zip(rows, found[PHYSICS], strict=True))
            print(f"| {name} | {statistics.median(rows):,.0f} | {ratio:.3f} |")
    return 0


if __name__ == "__main__":
    run(main, sys.argv[1:])

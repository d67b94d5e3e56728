"""Measure the steps per second of dm_control's tasks: as fast environments, through dm_control, and through Shimmy.

    python benchmarks/control_suite.py                                 # three tasks, one thread
    python benchmarks/control_suite.py tasks=HumanoidWalk n=256 seconds=5 rounds=5

Prints a Markdown table. The fast environments are those of examples/dm_suite.py, n of them side by side; the other rows
step one environment, as these libraries do. All take random actions and begin anew when an episode is over. Rows of the
same task alternate, so that a machine with varying speed slows all of them alike. A row shows its median over rounds,
and the median of its ratios to dm_control in the same round. Needs `pip install dm_control shimmy`.
"""

import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("MUJOCO_GL", "disable")  # dm_control asks for a renderer when it is imported
sys.path.append(str(Path(__file__).parents[1] / "examples"))

import gymnasium
import numpy as np
from mujoco.batch import Batch

from es_rl import envs
from es_rl.cli import run
from es_rl.config import parse
from es_rl.keys import key
from es_rl.workers.machine import use_one_thread

ACTIONS = 100  # steps of random actions, drawn beforehand and used again and again


@dataclass(frozen=True)
class Keys:
    tasks: list[str] = key(["CheetahRun", "QuadrupedWalk", "HumanoidWalk"], "tasks of examples/dm_suite.py")
    n: int = key(64, "number of fast environments side by side", low=1)
    seconds: float = key(2.0, "seconds for each row in each round", above=0)
    rounds: int = key(5, "number of rounds", low=1)


def fast(task: str, n: int) -> Callable[[np.ndarray], int]:
    """Return a function that steps n fast environments."""
    env = envs.make_vec(f"dm_suite:suite/{task}-v0", n)
    env.reset(seed=0)

    def step(actions: np.ndarray) -> int:
        env.step(actions)
        return n

    return step


def alone(task: str, n: int) -> Callable[[np.ndarray], int]:
    """Return a function that calls `Batch.step` and nothing else, from the states in which episodes begin."""
    env = envs.make(f"dm_suite:suite/{task}-v0", n)
    env.reset(range(n), range(n))
    batch = Batch(env.model, n, 1)
    for i in range(n):
        batch.state[i] = env.state(i)
    ctrl, skip = batch.bind("ctrl"), round(env.task.step_seconds / env.model.opt.timestep)

    def step(actions: np.ndarray) -> int:
        ctrl[:] = actions
        batch.step(None, skip)
        return n

    return step


def through_dm_control(domain: str, task: str) -> Callable[[np.ndarray], int]:
    """Return a function that steps one environment of dm_control, which begins anew by itself."""
    from dm_control import suite

    env = suite.load(domain, task)
    env.reset()

    def step(actions: np.ndarray) -> int:
        env.step(actions[0])
        return 1

    return step


def through_shimmy(domain: str, task: str) -> Callable[[np.ndarray], int]:
    """Return a function that steps one environment of Shimmy."""
    import shimmy

    gymnasium.register_envs(shimmy)
    env = gymnasium.make(f"dm_control/{domain}-{task}-v0")
    env.reset(seed=0)

    def step(actions: np.ndarray) -> int:
        _, _, terminated, truncated, _ = env.step(actions[0])
        if terminated or truncated:
            env.reset()
        return 1

    return step


def general(domain: str, task: str, n: int) -> Callable[[np.ndarray], int]:
    """Return a function that steps n environments of Shimmy one after another, as es_rl trains on any environment."""
    env, ids = envs.make(f"shimmy:dm_control/{domain}-{task}-v0", n), np.arange(n)
    env.reset(ids, ids)

    def step(actions: np.ndarray) -> int:
        _, _, terminated, truncated = env.step(ids, actions)
        over = ids[terminated | truncated]
        if len(over):
            env.reset(over, over)
        return n

    return step


def rows(task: str, n: int) -> Iterator[tuple[str, Callable[[np.ndarray], int]]]:
    """Yield a name and a function that makes one step, for each row of the table."""
    domain, name = (word.lower() for word in re.findall("[A-Z][a-z]+", task))
    yield "dm_control", through_dm_control(domain, name)
    yield "shimmy", through_shimmy(domain, name)
    yield "es_rl's general backend on Shimmy", general(domain, name, n)
    yield f"es_rl, {n} side by side", fast(task, n)
    yield f"Batch.step alone, {n}", alone(task, n)


def speed(step: Callable[[np.ndarray], int], actions: np.ndarray, seconds: float) -> float:
    """Return the environment steps per second of processor time."""
    count, calls, start = 0, 0, time.process_time()
    while time.process_time() - start < seconds:
        count, calls = count + step(actions[calls % len(actions)]), calls + 1
    return count / (time.process_time() - start)


def main(argv: list[str]) -> int:
    keys = parse(Keys, argv)
    warnings.simplefilter("ignore")
    use_one_thread()
    print(f"one thread, median of {keys.rounds} rounds of {keys.seconds:g} s of processor time\n")
    print("| task | | steps/s | of dm_control |\n|---|---|---|---|")
    for task in keys.tasks:
        steppers = dict(rows(task, keys.n))
        shape = (ACTIONS, keys.n, *gymnasium.make(f"dm_suite:suite/{task}-v0").action_space.shape)
        drawn = np.random.default_rng(0).uniform(-0.8, 0.8, shape)
        found = {name: [] for name in steppers}
        for _ in range(keys.rounds):
            for name, step in steppers.items():
                found[name].append(speed(step, drawn, keys.seconds))
        for name, speeds in found.items():
            ratio = np.median(np.array(speeds) / found["dm_control"])
            print(f"| {task} | {name} | {np.median(speeds):,.0f} | {ratio:.1f} |", flush=True)
    return 0


if __name__ == "__main__":
    run(main, sys.argv[1:])

"""Measure the steps per second of vector environments, with restarts, and their share of the physics alone.

    python benchmarks/vector_envs.py                                   # HalfCheetah-v4, one thread
    python benchmarks/vector_envs.py env=Humanoid-v4 sizes=8,64 threads=2 seconds=2 rounds=5
    python benchmarks/vector_envs.py ppo=true                          # train Stable-Baselines3's PPO on them

Prints a Markdown table. All rows use the same random actions. Rows of the same size alternate, so that a machine with
varying speed slows all of them alike. A row shows its median over rounds, and the median of its ratios to the first row
in the same round: `Batch.step` alone, or `es_rl.envs.sb3` with ppo=true. Needs the extra `baselines`. EnvPool is
measured only if it is installed: `pip install envpool`.
"""

import importlib.util
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import gymnasium
import mujoco
import numpy as np
from mujoco.batch import Batch

from es_rl import envs
from es_rl.cli import run
from es_rl.config import parse
from es_rl.keys import key
from es_rl.workers.machine import use_one_thread

ACTIONS = 100  # steps of random actions, drawn beforehand and used again and again
MOST_PROCESSES = 64  # leave out rows that would start more processes than this


@dataclass(frozen=True)
class Keys:
    env: str = key("HalfCheetah-v4", "id of a MuJoCo task of Gymnasium")
    sizes: list[int] = key([8, 64, 512], "numbers of environments side by side", low=1)
    threads: int = key(1, "threads of es_rl, of EnvPool, and of Batch.step alone", low=1)
    seconds: float = key(2.0, "seconds for each row in each round", above=0)
    rounds: int = key(5, "number of rounds", low=1)
    ppo: bool = key(False, "measure training with Stable-Baselines3's PPO instead")


def batch_alone(keys: Keys, n: int) -> Callable[[np.ndarray], object]:
    """Return a function that calls `Batch.step` and nothing else, from states in which the task begins."""
    env = gymnasium.make(keys.env).unwrapped
    batch = Batch(env.model, n, keys.threads)
    for i in range(n):
        env.reset(seed=i)
        mujoco.mj_getState(env.model, env.data, batch.state[i], int(mujoco.mjtState.mjSTATE_INTEGRATION))
    ctrl, skip = batch.bind("ctrl"), env.frame_skip

    def step(actions: np.ndarray) -> None:
        ctrl[:] = actions
        batch.step(None, skip)

    return step


def stepping(env) -> Callable[[np.ndarray], object]:
    """Reset a vector environment of Gymnasium's kind. Return its step function."""
    env.reset(seed=0)
    return env.step


def sb3_stepping(env) -> Callable[[np.ndarray], object]:
    """Reset a vector environment of Stable-Baselines3's kind. Return its step function."""
    env.seed(0)
    env.reset()
    return env.step


def rows(keys: Keys, n: int, stack: ExitStack) -> Iterator[tuple[str, Callable[[np.ndarray], object]]]:
    """Yield a name and a function that steps all n environments, for each row of the table."""
    each = [partial(gymnasium.make, keys.env)] * n

    def closing(env):
        stack.callback(env.close)
        return env

    yield "Batch.step alone", batch_alone(keys, n)
    yield "es_rl.envs.make_vec", stepping(closing(envs.make_vec(keys.env, n, threads=keys.threads)))
    yield "es_rl.envs.sb3", sb3_stepping(closing(envs.sb3(keys.env, n, threads=keys.threads)))
    if importlib.util.find_spec("envpool"):
        import envpool

        pool = envpool.make(keys.env, env_type="gymnasium", num_envs=n, num_threads=keys.threads)
        pool.reset()
        yield "EnvPool", pool.step
    yield "SyncVectorEnv", stepping(closing(gymnasium.vector.SyncVectorEnv(each)))
    if n <= MOST_PROCESSES:  # it starts a process for each environment
        yield "AsyncVectorEnv", stepping(closing(gymnasium.vector.AsyncVectorEnv(each)))


def speed(step: Callable[[np.ndarray], object], actions: np.ndarray, seconds: float) -> float:
    """Return the environment steps per second."""
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        step(actions[count % len(actions)])
        count += 1
    return count * actions.shape[1] / (time.perf_counter() - start)


def trainings(keys: Keys, n: int, stack: ExitStack) -> Iterator[tuple[str, Callable[[], int]]]:
    """Yield a name and a function that does one update of PPO and returns its steps, for each row of the table."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

    kinds = {
        "es_rl.envs.sb3": partial(envs.sb3, keys.env, n, threads=keys.threads),
        "DummyVecEnv": partial(make_vec_env, keys.env, n, vec_env_cls=DummyVecEnv),
        "SubprocVecEnv": partial(
            make_vec_env, keys.env, n, vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": "spawn"}
        ),
    }
    for name, make in kinds.items():
        if name == "SubprocVecEnv" and n > MOST_PROCESSES:
            continue
        env = make()
        stack.callback(env.close)
        model = PPO("MlpPolicy", env, n_steps=4096 // n, batch_size=256, n_epochs=5, device="cpu", seed=0)

        def update(model=model) -> int:
            before = model.num_timesteps
            model.learn(1, reset_num_timesteps=False)
            return model.num_timesteps - before

        yield name, update


def update_speed(update: Callable[[], int], _: np.ndarray, seconds: float) -> float:
    """Return the environment steps per second of training. Only whole updates are counted."""
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        count += update()
    return count / (time.perf_counter() - start)


def measure(keys: Keys, n: int) -> dict[str, np.ndarray]:
    """Measure all rows in turn. Return the steps per second (rounds,) of each."""
    space = gymnasium.make(keys.env).action_space
    drawn = np.random.default_rng(0).uniform(space.low, space.high, (ACTIONS, n, *space.shape)).astype(space.dtype)
    with ExitStack() as stack:
        everyone = dict((trainings if keys.ppo else rows)(keys, n, stack))
        timed = update_speed if keys.ppo else speed
        for each in everyone.values():
            timed(each, drawn, keys.seconds / 4)  # a warm-up of caches and libraries
        found = {name: [] for name in everyone}
        for _ in range(keys.rounds):
            for name, each in everyone.items():
                found[name].append(timed(each, drawn, keys.seconds))
    return {name: np.array(values) for name, values in found.items()}


def main(argv: list[str]) -> int:
    keys = parse(Keys, argv)
    warnings.simplefilter("ignore")
    use_one_thread()
    print(f"{keys.env}, {keys.threads} threads, median of {keys.rounds} rounds of {keys.seconds:g} s\n")
    print("| environments | | steps/s | of the first row |\n|---|---|---|---|")
    for n in keys.sizes:
        found = measure(keys, n)
        first = next(iter(found.values()))
        for name, speeds in found.items():
            print(f"| {n} | {name} | {np.median(speeds):,.0f} | {np.median(speeds / first):.3f} |", flush=True)
    return 0


if __name__ == "__main__":
    run(main, sys.argv[1:])

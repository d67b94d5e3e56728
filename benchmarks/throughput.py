"""Measure the steps per second of training, and of its simulations alone with the same actions.

    python benchmarks/throughput.py env=HalfCheetah-v4                       # any key of training, and rounds=N
    python benchmarks/throughput.py env=Hopper-v4 policy=mlp workers=1 rounds=5
    python benchmarks/throughput.py env=Hopper-v4 skip=30             # after 30 generations, when episodes are longer
    python benchmarks/throughput.py env=Humanoid-v4 peers=20                 # other trainers too, 20 s each per round

Each round trains one generation. Then it plays the same members again to record their actions, and steps the
simulations with these actions and nothing else: no policy, no noise, no update. On the fast backend this is
`Batch.step` alone, on all workers at once: the limit that the physics sets. On the general backend it is Gymnasium's
environments. The measurements alternate, so that a machine with varying speed slows all of them alike; the ratios are
what counts. Peers need the extra `peers`.
"""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
from mujoco.batch import Batch
from recorded_actions import Recorded
from robot_physics import RobotPhysics

from es_rl import es
from es_rl.cli import run
from es_rl.config import pairs
from es_rl.envs.mujoco_backend import MujocoVector
from es_rl.envs.robot.vector import RobotVector
from es_rl.envs.spaces import shape_of
from es_rl.errors import ConfigError
from es_rl.es.chunks import TOGETHER
from es_rl.es.strategy import Generation
from es_rl.rl import task as evaluator
from es_rl.rl.actors import member_actors
from es_rl.rl.chunks import ChunkRunner, make_policy
from es_rl.rl.config import parse_train
from es_rl.rl.episodes import play
from es_rl.rl.rollout.chunk import Chunk, episode_seeds
from es_rl.rl.task import RlTask
from es_rl.run.directory import versions
from es_rl.workers.machine import available_processors, use_one_thread
from es_rl.workers.pool import Workers

ROUNDS = 5
PEERS = ("sb3_ppo", "sb3_ars", "evotorch")


class Alone:
    """The simulations of a chunk, stepped with recorded actions. A call returns (steps, seconds)."""

    def __init__(self, config, spec):
        self._config, self._rollout = config, ChunkRunner(config, spec)
        self._shape = shape_of(spec.observation_space)

    def __call__(self, generation, chunk, beat):
        env, policy = self._rollout.prepare(generation)
        seeds = episode_seeds(self._config, generation.number, chunk)
        members, episodes = range(chunk.first, chunk.first + chunk.count), self._config.es.episodes
        with member_actors(policy, members, generation.perturbation, episodes) as actor:
            acting = Recorded(actor())
            play(env, acting, seeds, shape=self._shape, beat=beat, limit=generation.limit)
        sorted_ids = [(np.sort(ids), actions[np.argsort(ids)]) for ids, actions in acting.steps]
        env.reset(np.arange(len(seeds)), seeds)
        step = physics(env, seeds)
        start = time.perf_counter()
        for ids, actions in sorted_ids:
            step(ids, actions)
        return sum(len(ids) for ids, _ in acting.steps), time.perf_counter() - start


def physics(env, seeds):
    """Return a function that calls `Batch.step` and nothing else, from the states in which the episodes begin.

    Without a fast environment, it steps the environment itself.
    """
    if isinstance(env, RobotVector):
        robot = RobotPhysics(env)
        robot.begin()
        return robot.step
    if not isinstance(env, MujocoVector):
        return env.step
    template = env._template.unwrapped
    batch = Batch(template.model, len(seeds), 1)
    for i, seed in enumerate(seeds):
        env._template.reset(seed=seed)
        mujoco.mj_getState(template.model, template.data, batch.state[i], int(mujoco.mjtState.mjSTATE_INTEGRATION))
    ctrl, skip = batch.bind("ctrl"), template.frame_skip

    def step(ids, actions):
        ctrl[ids] = actions
        batch.step(ids, skip)

    return step


def peer(name, env, seconds):
    """Measure another trainer in its own process. Return (steps, seconds)."""
    script = Path(__file__).with_name("peers.py")
    done = subprocess.run([sys.executable, script, name, env, str(seconds)], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    return result["steps"], result["seconds"]


def main(argv):
    keys = pairs(argv)
    rounds, skip, seconds = int(keys.pop("rounds", ROUNDS)), int(keys.pop("skip", 0)), float(keys.pop("peers", 0))
    config = parse_train([f"{name}={value}" for name, value in ({"es.segment": "0"} | keys).items()])
    use_one_thread()
    count = available_processors() if config.workers is None else config.workers
    if config.inference == "central":
        raise ConfigError("inference=central: is not supported by this script. Leave it out.")
    members, size = config.es.population, max(2, TOGETHER // config.es.episodes // 2 * 2)
    totals = {"training": np.zeros(2), "alone": np.zeros(2)} | {name: np.zeros(2) for name in PEERS if seconds}
    # Each of the two measurements has its own pool, which keeps its environments.
    with Workers(count) as workers, Workers(count) as replaying:
        spec = evaluator.probe(workers, config)
        params = es.ESParams.of(config)
        training, alone = RlTask(config, params, spec, workers), Alone(replace(config, chunk=size), spec)
        state = es.init(make_policy(config, spec))
        for _ in range(skip):
            seen = training.members(state)
            state, _ = es.tell(params, state, seen.fitness, seen.buffers)
        for number in range(rounds + 1):
            start = time.perf_counter()
            seen = training.members(state)
            after, _ = es.tell(params, state, seen.fitness, seen.buffers)
            measured = {"training": (seen.steps, time.perf_counter() - start)}
            p, _ = es.ask(params, state)
            jobs = [Chunk("members", i, min(size, members - i)) for i in range(0, members, size)]
            generation = Generation(state.generation, es.arrays(state), p, es.limit(params, state.generation))
            steps, busy = np.sum(replaying.map(alone, generation, jobs), axis=0)
            measured["alone"] = (steps, busy / max(1, count))
            state = after
            if number == 0:
                continue  # a warm-up, which makes the environments and loads libraries
            measured |= {name: peer(name, config.env, seconds) for name in PEERS if seconds}
            for name, value in measured.items():
                totals[name] += value
            print(f"round {number}: " + ", ".join(f"{k} {v[0] / v[1]:,.0f}" for k, v in measured.items()), flush=True)
    found = ", ".join(f"{k} {v}" for k, v in versions().items())
    print(f"{config.env}, {config.policy}, {config.es.population} members, {count} workers")
    print(found)
    speeds = {name: steps / taken for name, (steps, taken) in totals.items()}
    for name, speed in speeds.items():
        print(f"{name:>10} {speed:>10,.0f} steps/s   training is {speeds['training'] / speed:.3f} of it")
    return 0


if __name__ == "__main__":
    run(main, sys.argv[1:])

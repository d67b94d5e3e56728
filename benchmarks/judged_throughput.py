"""Measure the steps per second of training by judged steps, and of its simulations alone with the same actions.

    python benchmarks/judged_throughput.py env=HalfCheetah-v4 workers=2          # any key of training, and rounds=N

Each round trains one generation: workers play, the policy moves, the critic learns. Then the workers step the same
simulations from the same states with the same actions and nothing else (`Batch.step`): the limit that the physics sets.
The measurements alternate, so that a machine with varying speed slows both alike; the ratio is what counts.
"""

import sys
import time

import numpy as np
from mujoco.batch import Batch

from es_rl.cli import run
from es_rl.config import pairs
from es_rl.envs.gymnasium_backend import make_one
from es_rl.rl.actors import numpy_layers
from es_rl.rl.chunks import make_policy
from es_rl.rl.config import parse_train
from es_rl.rl.numpy_policy import NumpyForward
from es_rl.rl.segments.state import SegmentState
from es_rl.rl.segments.task import SegmentTask
from es_rl.rl.task import probe
from es_rl.workers.machine import available_processors, use_one_thread
from es_rl.workers.pool import Workers

ROUNDS, WARM_UP = 10, 2  # generations


class Alone:
    """Steps simulations with recorded actions. A call returns seconds."""

    def __init__(self, config, n):
        self._config, self._n, self._batch = config, n, None

    def __call__(self, context, job, beat):
        rows, actions = job
        if self._batch is None:
            env = make_one(self._config.env, self._config.env_kwargs).unwrapped
            self._batch, self._skip = Batch(env.model, self._n, 1), env.frame_skip
            self._ctrl = self._batch.bind("ctrl")
        ids = np.arange(len(rows))
        self._batch.state[ids] = rows[:, : self._batch.state.shape[1]]
        start = time.perf_counter()
        for action in actions:
            self._ctrl[ids] = action
            self._batch.step(ids, self._skip)
        return time.perf_counter() - start


def main(argv):
    keys = pairs(argv)
    rounds = int(keys.pop("rounds", ROUNDS))
    config = parse_train([f"{name}={value}" for name, value in ({"es.segment": "64"} | keys).items()])
    use_one_thread()
    count = available_processors() if config.workers is None else config.workers
    totals = np.zeros(3)  # steps, seconds of training, seconds of the physics alone
    # Each of the two measurements has its own pool, which keeps its environments.
    with Workers(count) as workers, Workers(count) as replaying:
        spec = probe(workers, config)
        task, alone = SegmentTask(config, spec, workers, print), Alone(config, config.credit.simulations)
        act = NumpyForward(dict(list(numpy_layers(make_policy(config, spec)).items())[-1:]))
        state = task.begin()
        for number in range(WARM_UP + rounds):
            before = SegmentState.of(state.extra)
            start = time.perf_counter()
            done = task.step(state)
            seconds = time.perf_counter() - start
            outputs = task.play(state, before).all("outputs")
            actions = act(None, outputs.reshape(-1, outputs.shape[2])).reshape(*outputs.shape[:2], -1)
            parts = np.array_split(np.arange(config.credit.simulations), max(1, count))
            taken = replaying.map(alone, None, [(before.simulations.rows[i], actions[:, i]) for i in parts])
            if number >= WARM_UP:
                totals += done.steps, seconds, max(taken)
                print(f"training {done.steps / seconds:,.0f} steps/s, alone {done.steps / max(taken):,.0f}", flush=True)
            state = done.state
    steps, training, physics = totals
    print(f"{config.env}, {count} workers: {steps / training:,.0f} steps/s, {physics / training:.3f} of the physics")
    return 0


if __name__ == "__main__":
    run(main, sys.argv[1:])

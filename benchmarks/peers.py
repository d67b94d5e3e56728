"""Measure the steps per second of another trainer in training, with all processors; print one JSON line.

    python benchmarks/peers.py sb3_ppo HalfCheetah-v4 20        # name, environment, seconds

Needs the extra `peers`. `benchmarks/throughput.py peers=20` runs all of them, in turn with es_rl's own training.
"""

import contextlib
import json
import os
import sys
import time
import warnings

warnings.simplefilter("ignore")


class Enough(Exception):  # noqa: N818
    """Raised to end a training that has been measured for long enough."""


def clock(seconds, event):
    """Return a Stable-Baselines3 callback that marks (steps, time) at each `event`, and raises `Enough` at the end."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Clock(BaseCallback):
        marks = ()

        def _on_step(self):
            return True

        def mark(self):
            self.marks = (*self.marks[:1], (self.num_timesteps, time.perf_counter()))
            if self.marks[-1][1] - self.marks[0][1] > seconds:
                raise Enough

    setattr(Clock, event, Clock.mark)
    return Clock()


def measured(marks):
    """Return the steps and the seconds from the first mark to the last."""
    return marks[-1][0] - marks[0][0], marks[-1][1] - marks[0][1]


def sb3_ppo(env, seconds):
    """Measure PPO with its default settings, from the start of the first rollout on."""
    from stable_baselines3 import PPO

    marks = clock(seconds, "_on_rollout_start")
    with contextlib.suppress(Enough):
        PPO("MlpPolicy", env, device="cpu", verbose=0).learn(10**9, callback=marks)
    return measured(marks.marks)


def sb3_ars(env, seconds):
    """Measure ARS with one evaluating process for each core, as its documentation advises."""
    from sb3_contrib import ARS
    from sb3_contrib.common.vec_env import AsyncEval
    from stable_baselines3.common.env_util import make_vec_env

    model = ARS("LinearPolicy", env, n_delta=32, n_top=4, delta_std=0.03, learning_rate=0.02, device="cpu", verbose=0)
    processes = AsyncEval([lambda: make_vec_env(env, n_envs=1) for _ in range(os.cpu_count())], model.policy)
    marks = clock(seconds, "_on_rollout_start")
    with contextlib.suppress(Enough):
        model.learn(10**9, callback=marks, async_eval=processes, log_interval=None)
    processes.close()
    return measured(marks.marks)


def evotorch(env, seconds):
    """Measure PGPE on GymNE with a linear policy and one actor for each core, from the second generation on."""
    from evotorch.algorithms import PGPE
    from evotorch.neuroevolution import GymNE

    problem = GymNE(env, "Linear(obs_length, act_length)", observation_normalization=True, num_actors=os.cpu_count())
    searcher = PGPE(problem, popsize=64, center_learning_rate=0.01, stdev_learning_rate=0.1, stdev_init=0.03)
    marks = []
    while not marks or marks[-1][1] - marks[0][1] < seconds:
        searcher.step()
        marks.append((searcher.status["total_interaction_count"], time.perf_counter()))
    return measured(marks)


PEERS = {"sb3_ppo": sb3_ppo, "sb3_ars": sb3_ars, "evotorch": evotorch}

if __name__ == "__main__":
    name, env, seconds = sys.argv[1:]
    steps, taken = PEERS[name](env, float(seconds))
    print(
        json.dumps({"peer": name, "env": env, "steps": int(steps), "seconds": taken, "steps_per_second": steps / taken})
    )

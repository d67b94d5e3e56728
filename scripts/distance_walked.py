"""Measure how far a trained robot walks, and its return without the bonus for not falling.

    python scripts/distance_walked.py run=RUN    # a run on a MuJoCo task with such a bonus; also episodes=N seed=S

The episodes start as those of `python -m es_rl.evaluate` do. They run in Gymnasium's own environment.
"""

import sys

import numpy as np

from es_rl.cli import run
from es_rl.config import pairs
from es_rl.envs.gymnasium_backend import make_one
from es_rl.rl import agent
from es_rl.rng import integer_seed

EPISODES = 20


def episode(policy, env, seed):
    """Play one episode. Return the metres walked along x, the seconds, the return and the sum of the bonus."""
    obs, _ = env.reset(seed=seed)
    policy.reset()
    robot, begun, returned, bonus, over = env.unwrapped, env.unwrapped.data.qpos[0], 0.0, 0.0, False
    while not over:
        obs, reward, terminated, truncated, _ = env.step(policy(obs))
        returned, bonus, over = returned + reward, bonus + robot.healthy_reward, terminated or truncated
    return robot.data.qpos[0] - begun, robot.data.time, returned, bonus


def main(argv):
    given = pairs(argv)
    policy = agent.load(given["run"])
    env = make_one(policy.config.env, policy.config.env_kwargs)
    seeds = [
        integer_seed(int(given.get("seed", 0)), "evaluate", i) for i in range(int(given.get("episodes", EPISODES)))
    ]
    metres, seconds, returned, bonus = np.array([episode(policy, env, seed) for seed in seeds]).T
    for name, values in (
        ("metres walked", metres),
        ("seconds upright", seconds),
        ("metres per second", metres / seconds),
        ("return", returned),
        ("return without the bonus", returned - bonus),
    ):
        print(f"{name:<26} {values.mean():10.2f} ± {values.std():.2f}   (median {np.median(values):.2f})")
    return 0


if __name__ == "__main__":
    run(main, sys.argv[1:])

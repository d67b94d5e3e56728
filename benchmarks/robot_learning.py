"""Tell what randomised physics and sight of the ground are worth to a quadruped.

    python benchmarks/robot_learning.py out=runs/robot_learning          # hours; run it again to go on after a stop
    python benchmarks/robot_learning.py only=ground seeds=1 ground_steps=3000000

`ground`: a quadruped learns to walk over slopes, stairs, waves and blocks that it sees or does not see, with physics
that vary or with those of the model. Theta is judged on waves and blocks that it was not trained on; slopes and stairs
are always alike. `physics`: a quadruped learns to walk on flat ground, with physics that vary or with those of the
model. Theta is judged with friction and masses in the middle of their ranges, in the lowest quarter and in the highest.
There are noise and pushes everywhere, and the rest of the physics varies wherever theta is judged.
Prints a table for each: the return, the error of the velocity and the number of worlds in which it stays up, by seed.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from variants import folder, work

from es_rl.cli import run
from es_rl.config import parse
from es_rl.errors import TrainingError
from es_rl.keys import key

HERE = Path(__file__).resolve().parent
TRAIN = {"es.segment": "24", "eval.every": "100", "eval.episodes": "10"}
SEEING, BLIND = ["unseen/QuadrupedTerrain-v0"], ["unseen_blind/QuadrupedTerrain-v0"]
# Name of the case → the environment of its training, and the worlds in which theta is judged.
GROUND = {
    "sees the ground": ("es_rl/QuadrupedTerrain-v0", SEEING),
    "sees the ground, fixed physics": ("robot_worlds:fixed/QuadrupedTerrain-v0", SEEING),
    "blind": ("robot_worlds:blind/QuadrupedTerrain-v0", BLIND),
    "blind, fixed physics": ("robot_worlds:fixed_blind/QuadrupedTerrain-v0", BLIND),
}
FLAT = ["middle/Quadruped-v0", "lowest/Quadruped-v0", "highest/Quadruped-v0"]
PHYSICS = {
    "physics that vary": ("es_rl/Quadruped-v0", FLAT),
    "fixed physics": ("robot_worlds:fixed/Quadruped-v0", FLAT),
}


@dataclass(frozen=True)
class LearningConfig:
    """The keys of this program."""

    out: str = key("runs/robot_learning", "output directory", path=True)
    only: str = key("", "one of the two questions", choices=("", "ground", "physics"))
    ground_steps: int = key(3_000_000, "environment steps of a training on uneven ground", low=1)
    physics_steps: int = key(6_000_000, "environment steps of a training on flat ground", low=1)
    seeds: int = key(3, "trainings of each kind", low=1)
    first_seed: int = key(100, "seed of the first one", low=0)
    parallel: int = key(1, "trainings side by side, each on a core of its own", low=1)
    episodes: int = key(100, "worlds in which theta is judged", low=1)


def judged(path, env, episodes):
    """Return what `evaluate` tells of a trained policy in fresh worlds of an id of `robot_worlds`."""
    if failed := path.with_suffix(".done").read_text(encoding="utf-8"):
        raise TrainingError(f"{path}: {failed}; {path}.log says why. Without {path}.done, it is tried again.")
    kept = path.with_suffix(f".{env.partition('/')[0]}-{episodes}.json")
    if not kept.exists():
        keys = [f"run={path}", f"env=robot_worlds:{env}", f"episodes={episodes}", "backend=auto", "seed=1"]
        command = [sys.executable, "-m", "es_rl.evaluate", *keys]
        told = subprocess.run(command, capture_output=True, text=True, check=True)
        kept.write_text(told.stdout.splitlines()[-1], encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8"))


def table(title, cases, out, steps, config):
    """Train, judge and print one question's table."""
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    given = {name: TRAIN | {"env_steps": str(steps), "env": env} for name, (env, _) in cases.items()}
    cores = sorted(os.sched_getaffinity(0))[: config.parallel]
    work(out, [(keys, seed) for seed in seeds for keys in given.values()], cores)
    print(f"| {title}, {steps:,} steps | judged in | return | m/s off | stays up, of {config.episodes} worlds |")
    print("|---|---|---|---|---|")
    for name, (_, worlds) in cases.items():
        for env in worlds:
            told = [judged(folder(out, given[name], seed), env, config.episodes) for seed in seeds]
            columns = (
                [f"{one['return_mean']:.1f}" for one in told],
                [f"{one['metric/velocity_error']:.2f}" for one in told],
                [f"{config.episodes * (1 - fallen(one)):.0f}" for one in told],
            )
            cells = [name, env.partition("/")[0], *(", ".join(column) for column in columns)]
            print(f"| {' | '.join(cells)} |", flush=True)


def fallen(told):
    """Return the share of episodes that ended before their time; twice those that sank and tilted in the same step."""
    return sum(value for name, value in told.items() if name.startswith("ends/"))


def main(argv):
    config = parse(LearningConfig, argv)
    out = Path(config.out)
    # The processes that train and judge import `robot_worlds`.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    if config.only != "physics":
        table("uneven ground", GROUND, out, config.ground_steps, config)
    if config.only != "ground":
        table("friction and masses", PHYSICS, out, config.physics_steps, config)
    return 0


if __name__ == "__main__":
    run(main, sys.argv[1:])

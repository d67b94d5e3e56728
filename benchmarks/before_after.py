"""Compare two checkouts: steps per second of training, and seconds until the first generation is done.

    git worktree add ../before COMMIT
    python benchmarks/before_after.py before=../before env=HalfCheetah-v4 rounds=5 generations=30
    python benchmarks/before_after.py before=../before env=Humanoid-v4 es.segment=0 rounds=5 generations=4

The two take turns, so that a machine with varying speed slows both alike: the ratios are what counts. A training gives
the median over its generations, without the first two. Both train with the same keys and seed, so they take the same
steps if no bit has changed.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from es_rl.cli import run
from es_rl.config import pairs
from es_rl.errors import ConfigError, TrainingError

HERE = Path(__file__).resolve().parent.parent
SKIPPED = 2  # generations at the start that do not count


def train(checkout, keys, folder):
    """Train from a checkout; return steps per second and the seconds until the first generation was done."""
    argv = [sys.executable, "-m", "es_rl.train", *keys, "eval.every=0", "video.every=-1", f"run={folder / 'run'}"]
    begun = time.time()
    done = subprocess.run(
        argv, cwd=folder, env=os.environ | {"PYTHONPATH": str(checkout)}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise TrainingError(f"{checkout}: {done.stderr.strip()[-300:]}")
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    speeds = [line["time/steps_per_second"] for line in lines[SKIPPED:]]
    command = (folder / "run" / "command.txt").stat().st_mtime  # written before the first generation
    return statistics.median(speeds), command - begun + lines[0]["seconds"]


def main(argv):
    keys = pairs(argv)
    before, rounds = keys.pop("before", ""), int(keys.pop("rounds", "5"))
    if not (Path(before) / "es_rl").is_dir() or not before:
        raise ConfigError("before is missing: give another checkout, as `git worktree add ../before COMMIT` makes one.")
    if int(keys.get("generations", "0")) <= SKIPPED:
        raise ConfigError(f"generations: give more than {SKIPPED}.")
    given = [f"{name}={value}" for name, value in keys.items()]
    found = {"before": [], "now": []}
    for i in range(rounds):
        for name, checkout in (("before", Path(before).resolve()), ("now", HERE)):
            with tempfile.TemporaryDirectory() as folder:
                found[name].append(train(checkout, given, Path(folder)))
        speeds, starts = ([f"{found[name][-1][j]:,.1f}" for name in found] for j in (0, 1))
        print(f"round {i + 1}: {' and '.join(speeds)} steps/s; {' and '.join(starts)} s to the first generation")
    for j, what in enumerate(("steps per second", "seconds to the first generation")):
        ratios = sorted(now[j] / then[j] for then, now in zip(found["before"], found["now"], strict=True))
        print(f"{what}, now/before: median {statistics.median(ratios):.3f}, from {ratios[0]:.3f} to {ratios[-1]:.3f}")
    return 0


if __name__ == "__main__":
    run(main, sys.argv[1:])

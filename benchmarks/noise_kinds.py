"""Compare low-rank with dense perturbations: the same network, settings and evaluations, several seeds.

    python benchmarks/noise_kinds.py out=runs/noise                     # all tasks; run it again to go on after a stop
    python benchmarks/noise_kinds.py out=runs/noise envs=Swimmer-v4 seeds=3 scale=0.5

Prints for each task and kind of noise: the mean of `eval/return_mean` over seeds after each quarter of the generations,
and the last value of each seed.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from es_rl.cli import run
from es_rl.config import pairs

GENERATIONS = {"HalfCheetah-v4": 40, "Swimmer-v4": 24, "InvertedDoublePendulum-v4": 80}
KINDS = ("dense", "lowrank")
# The same settings for all tasks, in place of their presets.
SETTINGS = [
    "policy=mlp", "es.population=64", "es.top=32", "es.sigma=0.05", "es.shaping=centered_ranks", "optim.name=adam",
    "optim.lr=0.02", "optim.lr_decay=1", "optim.momentum=0.9", "es.limit=null", "mlp.hidden=64,64", "eval.episodes=10",
    "video.every=-1",
]  # fmt: skip


def curve(env, kind, seed, generations, out):
    """Train a run unless it is finished. Return `eval/return_mean` after each quarter of its generations."""
    path = out / f"{env}-{kind}-{seed}"
    if not path.exists():
        keys = [f"env={env}", f"es.noise={kind}", f"seed={seed}", f"generations={generations}", f"run={path}"]
        train = [sys.executable, "-m", "es_rl.train", *keys, f"eval.every={generations // 4}", *SETTINGS]
        subprocess.run(train, check=True, stdout=subprocess.DEVNULL)
    elif json.loads((path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])["generation"] < generations:
        resume = [sys.executable, "-m", "es_rl.train", f"resume={path}", f"generations={generations}"]
        subprocess.run(resume, check=True, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    quarters = [line for line in lines if line["generation"] and line["generation"] % (generations // 4) == 0]
    return [line["eval/return_mean"] for line in quarters]


def main(argv):
    keys = pairs(argv)
    out, seeds, scale = Path(keys["out"]), int(keys.get("seeds", 3)), float(keys.get("scale", 1))
    print("| task, members evaluated | noise | 1/4 | 1/2 | 3/4 | end | end, by seed |\n|---|---|---|---|---|---|---|")
    for env in keys.get("envs", ",".join(GENERATIONS)).split(","):
        generations = 4 * max(1, round(GENERATIONS[env] * scale / 4))
        for kind in KINDS:
            curves = np.array([curve(env, kind, seed, generations, out) for seed in range(seeds)])
            cells = [f"{value:.0f}" for value in curves.mean(axis=0)]
            last = ", ".join(f"{value:.0f}" for value in curves[:, -1])
            print(f"| {env}, {64 * generations} | {kind} | {' | '.join(cells)} | {last} |", flush=True)
    return 0


if __name__ == "__main__":
    run(main, sys.argv[1:])

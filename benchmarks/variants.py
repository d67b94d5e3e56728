"""Compare settings of es_rl on a task at equal environment steps, several seeds, one core for each training.

    python benchmarks/variants.py out=runs/variants env=HalfCheetah-v4 env_steps=400000 seeds=3 es.segment=64 \\
        -- "" "optim.beta1=0.95" "credit.epochs=3 optim.lr=0.001"

Keys before `--` are those of all variants; each text after it is a variant's own keys. Run it again to go on after a
stop. Prints a row for each variant: the return of theta at the end of each training (20 episodes), their median, and
the processor time of a training.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from es_rl.cli import run
from es_rl.config import pairs
from es_rl.errors import ConfigError
from es_rl.workers.processes import die_with_parent

OURS = {"out": "runs/variants", "seeds": "3", "first_seed": "1000", "parallel": "1"}


def folder(out, keys, seed):
    """Return the run directory of a training: the same for the same keys."""
    text = " ".join(sorted(f"{name}={value}" for name, value in keys.items()))
    return out / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}-{seed}"


def train(out, keys, seed, core):
    """Start a training, or go on with it; None if it is finished."""
    path = folder(out, keys, seed)
    if path.with_suffix(".done").exists():
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    more = {"workers": "0", "eval.every": "0", "eval.episodes": "20", "video.every": "-1", "checkpoint.every": "100000"}
    again = [f"env={keys['env']}"] if ":" in keys["env"] else []  # a module is taken from the command line only
    given = [f"resume={path}", *again] if path.exists() else [
        *(f"{name}={value}" for name, value in {**more, **keys}.items()), f"seed={seed}", f"run={path}",
    ]  # fmt: skip
    with path.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "es_rl.train", *given], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            preexec_fn=partial(pinned, core, os.getpid()),
        )  # fmt: skip
    process.path = path
    return process


def pinned(core, parent):
    os.sched_setaffinity(0, {core})
    die_with_parent(parent)


def work(out, trainings, cores):
    """Run all trainings, one on each core at a time."""
    waiting, running = list(trainings), {}
    while waiting or running:
        for core in cores:
            if core in running and running[core].poll() is not None:
                process = running.pop(core)
                text = "" if not process.returncode else f"exit code {process.returncode}"
                process.path.with_suffix(".done").write_text(text, encoding="utf-8")
            while core not in running and waiting:
                if (process := train(out, *waiting.pop(0), core)) is not None:
                    running[core] = process
        time.sleep(0.2)


def outcome(out, keys, seed):
    """Return the last return of a training and its processor seconds; NaN if it failed."""
    path = folder(out, keys, seed)
    if path.with_suffix(".done").read_text(encoding="utf-8"):
        return np.nan, np.nan
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return lines[-1]["eval/return_mean"], sum(line["time/processor_seconds"] for line in lines)


def main(argv):
    if "--" not in argv:
        raise ConfigError("variants are missing: give them after --, one text of keys each.")
    split = argv.index("--")
    given = pairs(argv[:split])
    ours = {name: given.pop(name, value) for name, value in OURS.items()}
    out, seeds = Path(ours["out"]), range(int(ours["first_seed"]), int(ours["first_seed"]) + int(ours["seeds"]))
    cores = sorted(os.sched_getaffinity(0))[: int(ours["parallel"])]
    variants = {text: given | pairs(text.split()) for text in argv[split + 1 :]}
    work(out, [(keys, seed) for seed in seeds for keys in variants.values()], cores)
    print(f"| {given['env']}, {given.get('env_steps', '')} steps | median | by seed | processor seconds |")
    print("|---|---|---|---|")
    for text, keys in variants.items():
        returns, seconds = np.array([outcome(out, keys, seed) for seed in seeds]).T
        each = ", ".join(f"{value:.0f}" for value in returns)
        print(f"| {text or 'as it is'} | {np.median(returns):.0f} | {each} | {seconds.mean():.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    run(main, sys.argv[1:])

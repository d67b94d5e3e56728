"""Search for settings: every combination of the values given, on seeds for tuning; the log is a table.

    python scripts/search.py out=runs/search env=Hopper-v4 env_steps=2000000 es.sigma=0.02,0.05 optim.lr=0.01,0.02,0.05
    python scripts/search.py out=runs/search env=Hopper-v4 trials=8 …      # eight of them, chosen at random

Each trial is a training with one worker, one for each core at a time, so the budget is best given as `env_steps`: it
does not depend on the machine. What counts is the mean over `seeds` (default: 1000,1001, which no reported result uses)
of the last `eval/return_mean`. What was tried is not tried again; OUT/ENV.md is a table of all that ever was, the best
first.
"""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from es_rl.cli import run
from es_rl.keys import pairs
from es_rl.processes import die_with_parent

COMMON = ["workers=1", "video.every=-1", "eval.every=0", "eval.episodes=20"]


def trial(folder, keys, seed):
    """The outcome of one training, which is run, or gone on with, unless it is finished."""
    name = hashlib.sha256(json.dumps([keys, seed], sort_keys=True).encode()).hexdigest()[:12]
    path, outcome = folder / name, folder / f"{name}.json"
    if outcome.exists():
        return json.loads(outcome.read_text())
    given = [f"{k}={v}" for k, v in {**keys, "seed": seed, "run": path}.items()]
    argv = [f"resume={path}"] if (path / "config.yaml").exists() else [*given, *COMMON]
    dies = partial(die_with_parent, os.getpid(), signal.SIGTERM)
    command = [sys.executable, "-m", "es_rl.train", *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=dies)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"keys": keys, "seed": seed, "failed": said[-1]}
    last = json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])
    found = {k: last[k] for k in ("generation", "env_steps", "seconds")}
    outcome.write_text(json.dumps({"keys": keys, "seed": seed, "return": last["eval/return_mean"], **found}))
    return json.loads(outcome.read_text())


def table(folder):
    """Markdown: the keys that vary among all trials, the return of each seed and their mean, the best first."""
    rows = {}
    for path in folder.glob("*.json"):
        found = json.loads(path.read_text())
        rows.setdefault(json.dumps(found["keys"], sort_keys=True), []).append(found)
    keys = [json.loads(row) for row in rows]
    common = {k: v for k, v in keys[0].items() if all(other.get(k) == v for other in keys)}
    lines = [f"`{' '.join(f'{k}={v}' for k, v in common.items())}`", ""]
    lines += ["| settings | mean return | by seed | generations | minutes on one core |", "|---|---|---|---|---|"]
    score = lambda found: np.mean([-np.inf if r["return"] is None else r["return"] for r in found])  # noqa: E731
    scored = [(score(found), json.loads(row), found) for row, found in rows.items()]
    for mean, own, found in sorted(scored, key=lambda row: -row[0]):
        settings = " ".join(f"{k}={v}" for k, v in own.items() if k not in common)
        returns = [r["return"] for r in sorted(found, key=lambda r: r["seed"])]
        each = ", ".join("failed" if value is None else f"{value:.4g}" for value in returns)
        minutes = np.mean([r["seconds"] for r in found]) / 60
        lines.append(f"| {settings or '–'} | {mean:.4g} | {each} | {found[0]['generation']} | {minutes:.1f} |")
    return "\n".join(lines) + "\n"


def main(argv):
    keys = pairs(argv)
    out, env, count = Path(keys.pop("out")), keys["env"], int(keys.pop("trials", 0))
    seeds = [int(seed) for seed in keys.pop("seeds", "1000,1001").split(",")]
    values = [v.split(",") if "," in v and not v.startswith("[") else [v] for v in keys.values()]
    trials = [dict(zip(keys, chosen, strict=True)) for chosen in itertools.product(*values)]
    if count:
        chosen = np.random.default_rng(0).permutation(len(trials))[:count]
        trials = [trials[i] for i in sorted(chosen)]
    (out / env).mkdir(parents=True, exist_ok=True)
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    try:
        for job in [pool.submit(trial, out / env, keys, seed) for keys in trials for seed in seeds]:
            print(job.result(), flush=True)
            if list((out / env).glob("*.json")):
                (out / f"{env}.md").write_text(table(out / env))
    finally:
        pool.shutdown(cancel_futures=True)
    if not (out / f"{env}.md").exists():
        return 5  # every trial has failed, and said why
    print((out / f"{env}.md").read_text())
    return 0


if __name__ == "__main__":
    run(main, sys.argv[1:])

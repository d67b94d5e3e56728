"""Make all results that the README shows, together with the commands that make them.

    python scripts/make_results.py run parallel=2 first_seed=100     # all tasks, many hours; run it again to go on
    python scripts/make_results.py run tasks=Swimmer-v4,Hopper-v4 against=ppo_fast,random
    python scripts/make_results.py show                              # finished comparisons → videos/ and the pages
    python scripts/make_results.py table                             # videos/results.json → the pages again

`run` calls `python -m es_rl.compare` once for each task. It takes all keys of `es_rl.compare`; the defaults for minutes
and opponents are below. Each comparison has its own core, and `parallel` comparisons run side by side. All contenders
of a comparison share its core, and so its conditions.

`show` collects the results of the runs in `videos/results.json`, and makes the tables in README.md, docs/results.md and
videos/README.md from it. It also puts the curves, a video and the small policy of our median seed into `videos/`.
`table` only makes the pages again, from `videos/results.json`.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from results_pages import (
    LONG_MINUTES,
    MINUTES,
    OPPONENT,
    at_equal_cost,
    at_equal_steps,
    brief,
    clips,
    processors,
    repeat,
    short,
    shown,
    table,
)

from es_rl.cli import run
from es_rl.compare.report.summary import OURS, RANDOM, finished, summary
from es_rl.config import pairs
from es_rl.errors import ConfigError, Stopped, TrainingError
from es_rl.run import CONFIG, atomic
from es_rl.run.atomic import MANIFEST
from es_rl.workers.processes import die_with_parent

ROOT = Path(__file__).parent.parent
SEEDS = 3
AGAINST = ["ppo_fast", "ars", RANDOM]
MORE = {"HalfCheetah-v4": ["sac", "evotorch"], "Humanoid-v4": ["sac", "evotorch"]}  # further opponents on some tasks
MAX_BYTES = 1_000_000  # largest size of a clip
CLIP_SECONDS = 8
BEGIN, END = "<!-- results: made by scripts/make_results.py -->", "<!-- /results -->"


def compare_all(tasks, out, keys, parallel):
    """Run the comparisons of all tasks, each on its own core, `parallel` at a time. Do not repeat finished ones."""
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= parallel <= len(cores):
        raise ConfigError(f"parallel={parallel}: from 1 to {len(cores)}, the cores that may be used.")
    before = [signal.signal(signal.SIGTERM, _stop), signal.getsignal(signal.SIGINT)]
    waiting = sorted(tasks, key=planned_minutes, reverse=True)
    running, failed = {}, []
    try:
        while waiting or running:
            for core in cores[:parallel]:
                if core not in running and waiting:
                    running[core] = Comparison(waiting.pop(0), out, keys, core, parallel)
                if core in running and running[core].ended():
                    failed += running.pop(core).failed()
            time.sleep(0.2)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):  # a second signal would leave a comparison running
            signal.signal(number, signal.SIG_IGN)
        for comparison in running.values():
            comparison.process.terminate()
        for comparison in running.values():
            comparison.process.wait()
            comparison.ended()
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)
    if failed:
        raise TrainingError(f"not finished: {', '.join(failed)}. What they said is in {out}/TASK.log.")


def _stop(number, frame):
    raise Stopped("stopped by SIGTERM: the same command goes on", 75)


class Comparison:
    """A process of `python -m es_rl.compare` on its own core. Its seconds are added to those of earlier calls."""

    def __init__(self, task, out, keys, core, parallel):
        self.task, self.start, self.took = task, time.monotonic(), out / f"{task}.took.json"
        self.parallel = parallel
        given = {
            "env": task,
            "minutes": MINUTES.get(task, 5),
            "seeds": SEEDS,
            "against": f"[{','.join(against(task))}]",
        }
        command = [f"{name}={value}" for name, value in (given | {"out": out / task} | keys).items()]
        self.took.parent.mkdir(parents=True, exist_ok=True)
        with (out / f"{task}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "es_rl.compare", *command], stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=partial(_pinned, core, os.getpid()),
            )  # fmt: skip
        print(f"{task} on core {core}", flush=True)

    def ended(self):
        """Tell whether the process has ended. If so, add the time that it took to the file `took`."""
        if self.process.poll() is None:
            return False
        before = (
            json.loads(self.took.read_text(encoding="utf-8"))
            if self.took.exists()
            else {"took": 0.0, "side_by_side": 1}
        )
        took = before["took"] + time.monotonic() - self.start
        self.took.write_text(
            json.dumps({"took": took, "side_by_side": max(before["side_by_side"], self.parallel)}), encoding="utf-8"
        )
        return True

    def failed(self):
        """Print how the comparison ended. Return a list: the task and its exit code if it failed, otherwise empty."""
        code = self.process.returncode
        print(f"{self.task} " + (f"ended with exit code {code}" if code else "is finished"), flush=True)
        return [f"{self.task} (exit code {code})"] if code else []


def _pinned(core, parent):
    os.sched_setaffinity(0, {core})
    die_with_parent(parent, signal.SIGTERM)


def against(task):
    """Return the opponents of es_rl on a task."""
    return [*AGAINST[:-1], *MORE.get(task, []), AGAINST[-1]]


def planned_minutes(task):
    """Return the minutes that all trainings of a comparison take together."""
    return MINUTES.get(task, 5) * SEEDS * len(against(task))  # one more for es_rl, one less for the random policy


def collect(task, out):
    """Return a summary of a task's runs and the directory of our median run; (None, None) until all runs have ended."""
    results = json.loads((out / task / "results.json").read_text(encoding="utf-8"))
    found = summary(results)
    ours = [r for r in results["runs"] if r["name"] == OURS and "return_mean" in r]
    if not ours or any(row["missing"] for row in found.values()):
        return None, None
    middle = sorted(ours, key=lambda r: r["return_mean"])[(len(ours) - 1) // 2]
    about = {k: results[k] for k in ("env", "minutes", "episodes")}
    about |= {k: middle.get(k, results[k]) for k in ("date", "machine", "versions")}
    took = out / f"{task}.took.json"
    about |= {
        "command": repeat(results["command"], about["machine"]),
        **(json.loads(took.read_text(encoding="utf-8")) if took.exists() else {"took": None}),
        "shown_seed": middle["seed"],
        "train": short(middle["command"], about["machine"]),
        "contenders": {
            name: kept(row, finished(results, name), task)
            for name, row in found.items()
            if len(row["returns"]) or row["failed"]
        },
    }
    return about, out / task / f"es-{middle['seed']}" / "run"


def kept(row, trainings, task):
    """Return the results of a contender that go into `videos/results.json`."""
    about = {"returns": row["returns"].tolist(), "env_steps": row["env_steps"], "failed": row["failed"]}
    about |= {"resources": row["resources"]} if any(row["resources"].values()) else {}
    scores = {
        "early": [at_equal_cost(training) for training in trainings],
        "at_steps": [at_equal_steps(training, task) for training in trainings],
    }
    for name, each in scores.items():
        reached = [score for score in each if score is not None]
        about |= {name: reached} if reached else {}
    return about | ({"others": row["others"]} if row["disturbed"] else {})


def show(trained, task):
    """Put into `videos/`: the curves of the comparison, a clip of the run, and the run's last checkpoint and config."""
    name = task.partition("-")[0].lower()
    shutil.copy(trained.parents[1] / "wall-clock.png", ROOT / "videos" / f"{name}.png")
    film = [f"run={trained}", f"out={ROOT / 'videos' / f'{name}.mp4'}", f"seconds={CLIP_SECONDS}"]
    subprocess.run([sys.executable, "-m", "es_rl.record", *film], check=True)
    size = (ROOT / "videos" / f"{name}.mp4").stat().st_size
    assert size <= MAX_BYTES, f"{name}.mp4 has {size} bytes"
    policy = ROOT / "videos" / "policies" / name
    shutil.rmtree(policy, ignore_errors=True)
    last = (trained / "checkpoints" / "last").resolve()
    contents = {file.name: file.read_bytes() for file in last.iterdir() if file.name != MANIFEST}
    contents[CONFIG] = moved = renamed((trained / CONFIG).read_bytes(), f"videos/policies/{name}")
    (policy / "checkpoints").mkdir(parents=True)
    atomic.write(policy / "checkpoints" / last.name, contents)
    (policy / "checkpoints" / "last").symlink_to(last.name)
    (policy / CONFIG).write_bytes(moved)


def renamed(config, run):
    """Return a run's configuration with another run directory: the one where it was trained is of this machine."""
    return re.sub(rb"(?m)^run: .*", f"run: {run}".encode(), config)


def identity(result):
    """Return the identity of a comparison. A newer comparison replaces the kept one with the same identity."""
    return result["env"], result["minutes"], processors(result["machine"])


def replaced(result, found):
    """Tell whether the newer comparison `found` replaces the kept comparison `result`.

    It does if both have the same identity, or if `result` is a short comparison without `OPPONENT` on the same task.
    """
    outdated = OPPONENT in found["contenders"] and OPPONENT not in result["contenders"]
    old = outdated and result["env"] == found["env"] and result["minutes"] < LONG_MINUTES
    return old or identity(result) == identity(found)


def completed(found, results):
    """Return a comparison with the contenders that only the kept one of the same identity has. They are marked."""
    earlier = {}
    for result in results:
        if identity(result) == identity(found):
            about = {k: result[k] for k in ("date", "machine", "command")}
            earlier |= {name: {"earlier": about} | row for name, row in result["contenders"].items()}
    return found | {"contenders": earlier | found["contenders"]}


def gather(results, tasks, out):
    """Return the kept results and those of finished tasks, sorted. Show a finished one as `shown` tells."""
    for task in tasks:
        found, trained = collect(task, out) if (out / task / "results.json").exists() else (None, None)
        if found:
            results = [*(r for r in results if not replaced(r, found)), completed(found, results)]
            if shown(results, found):
                show(trained, task)
    order = [*MINUTES, *tasks]
    return sorted(results, key=lambda result: (order.index(result["env"]), result["minutes"]))


def write_pages(results):
    """Write the generated blocks of README.md and docs/results.md, and all of videos/README.md."""
    (ROOT / "videos" / "README.md").write_text(clips(results), encoding="utf-8")
    for path, block in ((ROOT / "README.md", brief(results)), (ROOT / "docs" / "results.md", table(results))):
        page = path.read_text(encoding="utf-8")
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        path.write_text(f"{before}{BEGIN}\n{block}\n{END}{after}", encoding="utf-8")


def main(argv):
    if argv[:1] not in (["run"], ["show"], ["table"]):
        raise ConfigError("run, show or table is missing: the first word says what is to be done.")
    action, keys = argv[0], pairs(argv[1:])
    out = Path(keys.pop("out", ROOT / "runs" / "results"))
    tasks = keys.pop("tasks", ",".join(MINUTES)).split(",")
    if action == "run":
        parallel = keys.pop("parallel", "1")
        if not parallel.isdecimal():
            raise ConfigError(f"parallel={parallel}: a number of cores, such as parallel=2.")
        compare_all(tasks, out, keys, int(parallel))
        return 0
    path = ROOT / "videos" / "results.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    if action == "show":
        results = gather(results, tasks, out)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_pages(results)
    return 0


if __name__ == "__main__":
    run(main, sys.argv[1:])

"""Every result that the README shows, and the commands that made it.

    python scripts/results.py run                     # all tasks: many hours; goes on where it was stopped
    python scripts/results.py run tasks=Swimmer-v4,Hopper-v4 against=[]
    python scripts/results.py run tasks=Ant-v4 minutes=11 out=runs/short
    python scripts/results.py show                    # what is finished → videos/ and the table in the README

    python scripts/results.py run tasks=Humanoid-v4 minutes=150 seeds=1 against=[random] out=runs/long
    taskset -c 0 python scripts/results.py run tasks=Humanoid-v4 seeds=2 first_seed=1 against=[ppo,random] out=runs/one

`run` calls `python -m es_rl.compare` for each task, with the minutes below if not given, and any key of it. `show`
writes what the runs' own files say into `videos/results.json`, from which the tables in README.md and videos/README.md
are made, and copies the curves, and the video and the small policy of our median seed, into `videos/`, of each task's
longest training.
"""

import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np

from es_rl import compare as comparison
from es_rl.cli import run
from es_rl.errors import ConfigError
from es_rl.keys import pairs
from es_rl.report import summary
from es_rl.screen import number

ROOT = Path(__file__).parent.parent
MINUTES = {
    "Swimmer-v4": 3, "InvertedDoublePendulum-v4": 2, "HalfCheetah-v4": 5, "Hopper-v4": 5, "Walker2d-v4": 20,
    "Ant-v4": 30, "Humanoid-v4": 60,
}  # fmt: skip
SEEDS = 3
OTHERS = {"ppo": "PPO", "ars": "ARS", "random": "random"}
MAX_BYTES = 1_000_000  # of a clip
CLIP_SECONDS = 8
BEGIN, END = "<!-- results: made by scripts/results.py -->", "<!-- /results -->"


def compare(task, out, keys):
    """One comparison; what is finished is not done again."""
    given = {"env": task, "minutes": MINUTES.get(task, 5), "seeds": SEEDS, "out": out / task, **keys}
    comparison.main([f"{name}={value}" for name, value in given.items()])


def collect(task, out):
    """What the runs of a task say, small enough to keep, and our median run; nothing before all of ours are done."""
    results = json.loads((out / task / "results.json").read_text())
    found = summary(results)
    ours = [r for r in results["runs"] if r["name"] == "es" and "return_mean" in r]
    if not ours or found["es"]["missing"]:
        return None, None
    middle = sorted(ours, key=lambda r: r["return_mean"])[(len(ours) - 1) // 2]
    kept = {
        name: {"returns": row["returns"].tolist(), "env_steps": row["env_steps"], "failed": row["failed"]}
        for name, row in found.items()
        if len(row["returns"]) or row["failed"]
    }
    about = {k: results[k] for k in ("env", "minutes", "episodes", "command")}
    about |= {k: middle.get(k, results[k]) for k in ("date", "machine", "versions")}
    about |= {"shown_seed": middle["seed"], "train": short(middle["command"]), "contenders": kept}
    return about, out / task / f"es-{middle['seed']}" / "run"


def show(trained, task):
    """The clip of a run's policy, its comparison's curves, and a run directory with nothing but its last checkpoint."""
    name = task.partition("-")[0].lower()
    shutil.copy(trained.parents[1] / "wall-clock.png", ROOT / "videos" / f"{name}.png")
    film = [f"run={trained}", f"out={ROOT / 'videos' / f'{name}.mp4'}", f"seconds={CLIP_SECONDS}"]
    subprocess.run([sys.executable, "-m", "es_rl.record", *film], check=True)
    size = (ROOT / "videos" / f"{name}.mp4").stat().st_size
    assert size <= MAX_BYTES, f"{name}.mp4 has {size} bytes"
    policy = ROOT / "videos" / "policies" / name
    shutil.rmtree(policy, ignore_errors=True)
    last = (trained / "checkpoints" / "last").resolve()
    shutil.copytree(last, policy / "checkpoints" / last.name)
    (policy / "checkpoints" / "last").symlink_to(last.name)
    config = (trained / "config.yaml").read_text()
    (policy / "config.yaml").write_text(re.sub(r"(?m)^run: .*", f"run: videos/policies/{name}", config))


def cell(contender):
    """Median, and each seed."""
    if not contender:
        return "not run"
    lost = f"{len(contender['failed'])} failed" if contender["failed"] else ""
    if not len(contender["returns"]):
        return lost
    each = ", ".join([*(number(value) for value in contender["returns"]), *([lost] if lost else [])])
    return f"{number(np.median(contender['returns']))} ({each})" if ", " in each else each


def table(results):
    """Markdown: a row a comparison, the higher of our median and PPO's in bold, if both have as many returns."""
    rows = ["| task | minutes | **es_rl** | " + " | ".join(OTHERS.values()) + " | our steps, millions | on |"]
    rows.append("|---|---|---|" + "---|" * (len(OTHERS) + 2))
    for result in results:
        them = result["contenders"]
        cells = [cell(them.get(name)) for name in ("es", *OTHERS)]
        medians = [np.median(them[name]["returns"]) if name in them else -np.inf for name in ("es", "ppo")]
        if "ppo" in them and len(them["es"]["returns"]) == len(them["ppo"]["returns"]):
            better = int(medians[1] > medians[0])
            cells[better] = f"**{cells[better]}**"
        steps = them["es"]["env_steps"] / 1e6
        cells += [f"{steps:.1f}", processors(result["machine"])]
        rows.append(f"| {result['env']} | {result['minutes']:g} | {' | '.join(cells)} |")
    return "\n".join(rows)


def processors(machine):
    """How many of what, as in `2 AMD EPYC`."""
    name = re.sub(r"\(R\)| Processor$", "", machine["processor"])
    return f"{machine['processors']} {name}"


def identity(result):
    """What a comparison replaces another one of."""
    return result["env"], result["minutes"], processors(result["machine"])


def longest(results, result):
    """Whether no other comparison of its task took more minutes."""
    return result["minutes"] == max(other["minutes"] for other in results if other["env"] == result["env"])


def clips(results):
    """videos/README.md."""
    lines = [
        "# Trained policies",
        "",
        "Each clip is of the policy that its command trained, of the median seed.",
    ]
    lines += [
        "`es_rl.load('videos/policies/NAME')` is the policy itself. Made by `python scripts/results.py show`.",
        "",
    ]
    for result in filter(partial(longest, results), results):
        task, ours = result["env"], result["contenders"]["es"]
        name = task.partition("-")[0].lower()
        lines += [f"## {task}: [{name}.mp4]({name}.mp4)", "", f"`{result['train']}`", ""]
        lines += [f"Mean return of {result['episodes']} episodes, each seed's: "
                  f"{', '.join(f'{value:,.0f}' for value in ours['returns'])}. "
                  f"mujoco {result['versions']['mujoco']}, {processors(result['machine'])}, "
                  f"{result['date']}.", ""]  # fmt: skip
        lines += [f"![Return against minutes of training]({name}.png)", ""]
    return "\n".join(lines)


def short(command):
    """A training's command without the places of its files."""
    return " ".join(word for word in command.split() if not word.startswith(("run=", "video.every=")))


def main(argv):
    if argv[:1] not in (["run"], ["show"]):
        raise ConfigError("run or show is missing: the first word says what is to be done.")
    action, keys = argv[0], pairs(argv[1:])
    out = Path(keys.pop("out", ROOT / "runs" / "results"))
    tasks = keys.pop("tasks", ",".join(MINUTES)).split(",")
    if action == "run":
        for task in tasks:
            compare(task, out, keys)
        return 0
    path = ROOT / "videos" / "results.json"
    results = json.loads(path.read_text()) if path.exists() else []
    for task in tasks:
        found, trained = collect(task, out) if (out / task / "results.json").exists() else (None, None)
        if found:
            results = [*(r for r in results if identity(r) != identity(found)), found]
            if longest(results, found):
                show(trained, task)
    order = [*MINUTES, *tasks]
    results.sort(key=lambda result: (order.index(result["env"]), result["minutes"]))
    path.write_text(json.dumps(results, indent=1) + "\n")
    (ROOT / "videos" / "README.md").write_text(clips(results))
    readme = (ROOT / "README.md").read_text()
    before, after = readme.split(BEGIN)[0], readme.split(END)[1]
    (ROOT / "README.md").write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{after}")
    return 0


if __name__ == "__main__":
    run(main, sys.argv[1:])

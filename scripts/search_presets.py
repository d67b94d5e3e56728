"""Search settings for es_rl and for its opponent with the same trials, steps, seeds and rule for stopping.

    python scripts/search_presets.py plan                                   # print the sweeps and what they cost
    python scripts/search_presets.py run out=runs/presets [tasks=Hopper-v4] [contenders=es] [parallel=2]
    python scripts/search_presets.py keep out=runs/presets                  # copy the sweeps to benchmarks/search/
    python scripts/search_presets.py show [to=benchmarks/search_results.md] # the kept results, and Python to paste

Each sweep is one call of `es_rl.sweep`, which runs one training at a time; `parallel` sweeps run side by side. After a
stop, the same `run` command goes on and does not repeat finished work. It skips the finished sweeps that `keep` has
copied. `keep` also copies the journals of unfinished sweeps, so that `run` can go on with them on another machine.
"""

import csv
import gzip
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from es_rl.cli import run
from es_rl.compare.opponents import ppo_fast
from es_rl.config import flatten, parse
from es_rl.errors import ConfigError, Stopped, TrainingError, lookup
from es_rl.keys import key
from es_rl.rl.presets import family, preset
from es_rl.run.signals import stop_requests
from es_rl.sweep import contenders, space
from es_rl.workers.processes import die_with_parent

TRIALS = 24  # of each search
SEEDS = (1000, 1001)  # of each trial; no reported result uses these seeds
# Environment steps of each training, the same for both contenders.
STEPS = {
    "InvertedDoublePendulum-v4": 200_000,
    "Swimmer-v4": 400_000,
    "HalfCheetah-v4": 800_000,
    "Hopper-v4": 500_000,
    "Walker2d-v4": 500_000,
    "Ant-v4": 300_000,
    "Humanoid-v4": 300_000,
}
# Ranges to search for evolution strategies, around the presets in es_rl/rl/presets.py. All other keys stay as there.
NETWORK = {"policy": "[linear,mlp]", "mlp.hidden": "[32,32]"}
BEST_PAIRS = {"es.top": "[4,8,null]"}
ES = {
    "InvertedDoublePendulum-v4": {
        "es.sigma": "0.01..0.3:log", "optim.lr": "0.002..0.1:log", "es.population": "[32,64,128,256]",
        "es.shaping": "[zscore,centered_ranks]", **NETWORK,
    },
    "Swimmer-v4": {
        "es.sigma": "0.1..2:log", "optim.lr": "0.05..1:log", "es.population": "[8,16,32,64]",
        "es.shaping": "[zscore,centered_ranks]", "obs_norm": "[true,false]", **NETWORK,
    },
    "HalfCheetah-v4": {
        "es.sigma": "0.01..0.2:log", "optim.lr": "0.0003..0.02:log", "es.population": "[16,32,64]",
        "es.limit": "[200,500,null]", **BEST_PAIRS, **NETWORK,
    },
    "Hopper-v4": {
        "es.sigma": "0.005..0.2:log", "optim.lr": "0.0001..0.01:log", "es.population": "[16,32,64]",
        "es.reward_shift": "[0,1]", **BEST_PAIRS, **NETWORK,
    },
    "Walker2d-v4": {
        "es.sigma": "0.005..0.2:log", "optim.lr": "0.0003..0.02:log", "es.population": "[16,32,64,80]",
        "es.reward_shift": "[0,1]", "es.top": "[8,16,30,null]", **NETWORK,
    },
    "Ant-v4": {
        "es.sigma": "0.005..0.2:log", "optim.lr": "0.0002..0.01:log", "es.population": "[32,64,120]",
        "es.limit": "[100,200,500]", "es.top": "[8,16,null]", **NETWORK,
    },
    "Humanoid-v4": {
        "es.sigma": "0.01..0.3:log", "optim.lr": "0.001..0.1:log", "es.population": "[64,128,256]",
        "es.reward_shift": "[0,5]", "obs_first": "[45,null]", **NETWORK,
    },
}  # fmt: skip
# Ranges to search for PPO, around the settings in es_rl/compare/opponents/ppo_fast.py.
EVERYWHERE = {
    "learning_rate": "1e-4..2e-3:log", "n_steps": "[32,64,128]", "batch_size": "[256,512,1024]", "n_epochs": "[3,5,8]",
    "gamma": "[0.98,0.99,0.995]", "gae_lambda": "[0.9,0.95,0.98]", "clip_range": "[0.1,0.2,0.3]",
    "ent_coef": "[0.0,0.001,0.005]", "policy_kwargs.log_std_init": "[-2.0,-1.0,0.0]",
    "policy_kwargs.net_arch": "[[64,64],[128,128]]",
}  # fmt: skip
PPO_FAST = dict.fromkeys(STEPS, EVERYWHERE) | {
    "Swimmer-v4": EVERYWHERE | {"gamma": "[0.99,0.995,0.999,0.9999]", "normalize": "[true,false]"},
    "Humanoid-v4": EVERYWHERE | {"obs_first": "[45,null]"},
}
# Ranges to search for judged steps: those of PPO, but for what only PPO has (`ent_coef`).
STEPWISE = {
    "es.segment": "64", "optim.lr": "1e-4..2e-3:log", "credit.simulations": "[32,64,128]",
    "credit.batch": "[256,512,1024]", "credit.epochs": "[3,5,8]", "critic.discount": "[0.98,0.99,0.995]",
    "critic.gae": "[0.9,0.95,0.98]", "credit.clip": "[0.1,0.2,0.3]", "credit.explore": "[0.14,0.37,1.0]",
    "mlp.hidden": "[[64,64],[128,128]]",
}  # fmt: skip
JUDGED = dict.fromkeys(STEPS, STEPWISE) | {
    "Swimmer-v4": STEPWISE | {"critic.discount": "[0.99,0.995,0.999,0.9999]", "obs_norm": "[true,false]"},
    "Humanoid-v4": STEPWISE | {"obs_first": "[45,null]"},
}
CONTENDERS = {"es": ES, "judged": JUDGED, "ppo_fast": PPO_FAST}
# Tasks that es_rl searched twice, once for each way of judging. PPO's search goes on there for as many trials again.
TWICE = ("HalfCheetah-v4", "Walker2d-v4", "Ant-v4", "Humanoid-v4")
# Environment steps per second on one core, in the order of STEPS. Only the estimate of the cost uses them.
SPEEDS = {
    "es": (15_000, 14_000, 13_000, 4_000, 4_000, 2_500, 1_200),
    "judged": (12_000, 11_000, 13_000, 7_000, 7_000, 4_500, 3_000),
    "ppo_fast": (6_000, 5_500, 5_000, 3_300, 3_300, 2_100, 1_400),
}
JOURNAL = "study.journal"  # file name in the directory of a sweep
KEPT = Path(__file__).parent.parent / "benchmarks" / "search"  # trials of finished sweeps, journals of unfinished ones
START = 6  # processor seconds before the first step of a training
STOPPED = 0.6  # estimated share of all steps that is played, because hopeless trials are stopped early
POLL = 1.0  # seconds between two checks of the running sweeps


@dataclass(frozen=True)
class Keys:
    out: str = key("runs/presets", "directory for the sweeps")
    tasks: list[str] = key(list(STEPS), "ids of the tasks")
    contenders: list[str] = key(
        list(CONTENDERS), "whose settings to search: es, judged (es_rl's judged steps), ppo_fast"
    )
    parallel: int = key(2, "number of sweeps to run at a time, on one processor each", low=1)
    to: str = key("", "file for the results of show; default: print them")


def trials(contender, task):
    """Return the number of trials of a sweep."""
    return 2 * TRIALS if contender == "ppo_fast" and task in TWICE else TRIALS


def command(contender, task, out):
    """Return the command of a sweep: the module and its keys."""
    keys = [
        f"env={task}",
        f"contender={swept(contender)}",
        f"env_steps={STEPS[task]}",
        f"trials={trials(contender, task)}",
        "parallel=1",
    ]
    keys += [f"seeds={','.join(map(str, SEEDS))}", f"out={out}/{contender}-{task}"]
    return ["es_rl.sweep", *keys, *(f"{k}={v}" for k, v in CONTENDERS[contender][task].items())]


def swept(contender):
    """Return the contender by the name that `es_rl.sweep` has for it."""
    return "es" if contender == "judged" else contender


def cost(contender, task):
    """Return an estimate of the processor seconds of a sweep."""
    speed = dict(zip(STEPS, SPEEDS[contender], strict=True))[task]
    return trials(contender, task) * len(SEEDS) * STOPPED * (STEPS[task] / speed + START)


def plan(keys):
    """Print the command of each sweep and an estimate of its cost."""
    sweeps = [(contender, task) for contender in keys.contenders for task in keys.tasks]
    for sweep in sweeps:
        hours = cost(*sweep) / 3600
        print(f"{hours:5.2f} processor hours: {shlex.join(['python', '-m', *command(*sweep, keys.out)])}")
    print(f"{sum(cost(*sweep) for sweep in sweeps) / 3600:5.2f} in all")


def search(keys):
    """Run the sweeps, task by task."""
    waiting = [
        (c, task) for task in keys.tasks for c in keys.contenders if finished(found(record(c, task))) < trials(c, task)
    ]
    running, failed = {}, []
    with stop_requests() as check:
        try:
            while waiting or running:
                check()
                while waiting and len(running) < keys.parallel:
                    sweep = waiting.pop(0)
                    running[sweep] = start(*sweep, keys.out)
                time.sleep(POLL)
                for sweep, process in list(running.items()):
                    if process.poll() is not None:
                        del running[sweep]
                        failed += [" on ".join(sweep)] if process.returncode else []
        except Stopped as stop:
            raise Stopped(f"{stop}: the same command goes on", stop.exit_code) from None
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
    if failed:
        raise TrainingError(f"failed: {', '.join(failed)}. Their logs say why; the same command tries again.")


def start(contender, task, out):
    """Start a sweep and return its process. It stops when this process ends, and writes its output to `log.txt`.

    If only `keep` has a journal of the sweep, the sweep goes on from it.
    """
    folder = Path(out) / f"{contender}-{task}"
    folder.mkdir(parents=True, exist_ok=True)
    if unfinished(contender, task).exists() and not (folder / JOURNAL).exists():
        (folder / JOURNAL).write_bytes(gzip.decompress(unfinished(contender, task).read_bytes()))
    print(f"{time.strftime('%H:%M')} {contender} on {task}: {folder / 'log.txt'}", flush=True)
    dies = partial(die_with_parent, os.getpid(), signal.SIGTERM)
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *command(contender, task, out)],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=dies, start_new_session=True,
        )  # fmt: skip


def record(contender, task):
    """Return the file that keeps the trials of a finished sweep."""
    return KEPT / f"{contender}-{task}.csv"


def unfinished(contender, task):
    """Return the file that keeps the journal of an unfinished sweep."""
    return KEPT / f"{contender}-{task}.journal.gz"


def keep(keys):
    """Copy the trials of finished sweeps and the journals of unfinished sweeps to `KEPT`."""
    KEPT.mkdir(exist_ok=True)
    for task in keys.tasks:
        for contender in keys.contenders:
            folder, journal = Path(keys.out) / f"{contender}-{task}", unfinished(contender, task)
            rows = found(folder / "trials.csv")
            if finished(rows) >= trials(contender, task):
                shutil.copy(folder / "trials.csv", record(contender, task))
                journal.unlink(missing_ok=True)
                print(record(contender, task))
            elif rows:
                journal.write_bytes(gzip.compress((folder / JOURNAL).read_bytes(), mtime=0))
                print(journal)


def found(path):
    """Return the trials of a sweep, the best first; an empty list if there is no file."""
    return list(csv.DictReader(path.open(encoding="utf-8"))) if path.exists() else []


def finished(rows):
    """Return how many trials of a sweep count: those that failed are tried again."""
    return sum(row["state"] != "failed" for row in rows)


def table(keys):
    """Return a Markdown table: for each sweep the scores of the default settings and of the best settings."""
    lines = ["| task | contender | default settings | best | trial | its settings | complete, stopped | hours |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for task in keys.tasks:
        for contender in keys.contenders:
            rows = found(record(contender, task))
            complete = [trial for trial in rows if trial["state"] == "complete"]
            if not complete:
                continue
            best = complete[0]
            defaults = next((trial for trial in complete if not settings(trial, contender, task)), None)
            chosen = " ".join(f"{k}={v}" for k, v in settings(best, contender, task).items())
            stopped = sum(trial["state"] == "stopped" for trial in rows)
            hours = sum(float(trial["seconds"] or 0) for trial in rows) / 3600
            cells = [task, contender, score(defaults), score(best), best["trial"], f"`{chosen}`" if chosen else "–"]
            lines.append(f"| {' | '.join(cells)} | {len(complete)}, {stopped} | {hours:.2f} |")
    return "\n".join(lines)


def settings(trial, contender, task):
    """Return the keys that a trial set; an empty dictionary for the default settings."""
    return {k: trial[k] for k in CONTENDERS[contender][task] if trial.get(k)}


def score(trial):
    """Return the score of a trial, and of each seed in brackets, as text."""
    if trial is None:
        return "–"
    return f"{float(trial['score']):.4g} ({', '.join(trial[f'seed {seed}'] for seed in SEEDS)})"


def paste(contender, keys):
    """Return the best settings as Python, ready to paste into the contender's own table of settings."""
    lines = [f"{ {'es': 'PRESETS', 'judged': 'JUDGED'}.get(contender, 'SETTINGS') } = {{"]
    for task in keys.tasks:
        rows = found(record(contender, task))
        if rows:
            best = best_settings(contender, task, rows[0])
            lines.append(f'    "{family(task)}": {best!r},'.replace("'", '"'))
    return "\n".join([*lines, "}"])


def best_settings(contender, task, trial):
    """Return the settings of a trial in the form of the contender's own table."""
    reader = contenders.make(swept(contender), task, STEPS[task])
    fixed = space.parse(CONTENDERS[contender][task], reader)[1]
    chosen = {k: reader.value(k, text) for k, text in {**fixed, **settings(trial, contender, task)}.items()}
    if swept(contender) == "es":
        base = preset(task, {"es.segment": chosen.get("es.segment", 0)})
        linear = chosen.get("policy", base.get("policy")) == "linear"
        return {k: v for k, v in {**base, **chosen}.items() if not (linear and k == "mlp.hidden")}
    whole = flatten(ppo_fast.settings(task)) | chosen
    network = {k.partition(".")[2]: v for k, v in whole.items() if k.startswith("policy_kwargs.")}
    return {k: v for k, v in whole.items() if not k.startswith("policy_kwargs.")} | {"policy_kwargs": network}


def went_on(keys):
    """Return a sentence: on which tasks PPO's search went on as es_rl's did, and on which it has still to."""
    done = [task for task in TWICE if finished(found(record("ppo_fast", task))) >= trials("ppo_fast", task)]
    left = [task for task in TWICE if task in keys.tasks and task not in done]
    text = f"On {' and '.join(done)} PPO's own search had {TRIALS} trials more too. " if done else ""
    return f"{text}On {' and '.join(left)} es_rl has had twice PPO's trials so far." if left else text.strip()


def show(keys):
    """Write the results as Markdown, and the best settings as Python."""
    steps = ", ".join(f"{task} {STEPS[task]:,}" for task in keys.tasks)
    text = f"""# What the search for settings found

`python scripts/search_presets.py run tasks=[{",".join(keys.tasks)}]`

{TRIALS} trials for each contender and task with equal environment steps ({steps}), on the seeds
{" and ".join(map(str, SEEDS))}, on which no reported result is made. The score is the median over the seeds, in
brackets, of the mean return in the last fifth of the steps: good enough to choose by, too good to report. Trial 0 has
the settings that were the default before: for es_rl presets that were tuned by hand before, task by task, for PPO one
general default. PPO has ten keys to search, in the same ranges for every task, and es_rl five to seven, in ranges about
its presets: as many trials for both do not make the searches equal in everything. Judged steps (`judged`) are es_rl's
second search on a task, in PPO's ranges, but for its entropy.
{went_on(keys)}

{table(keys)}
"""
    for contender in keys.contenders:
        text += f"\n## Best settings of {contender}\n\n```python\n{paste(contender, keys)}\n```\n"
    if keys.to:
        Path(keys.to).parent.mkdir(parents=True, exist_ok=True)
        Path(keys.to).write_text(text, encoding="utf-8")
    else:
        print(text)


def main(argv):
    verbs = {"plan": plan, "run": search, "keep": keep, "show": show}
    if not argv:
        raise ConfigError(f"a verb is missing: one of {', '.join(verbs)}.")
    verb = lookup(verbs, argv[0], "verb")
    keys = parse(Keys, [_listed(argument) for argument in argv[1:]])
    for task in keys.tasks:
        lookup(STEPS, task, "tasks")
    for contender in keys.contenders:
        lookup(CONTENDERS, contender, "contenders")
    verb(keys)
    return 0


def _listed(argument):
    """Turn `tasks=a,b` into `tasks=[a,b]`, so that lists need no brackets."""
    name, _, text = argument.partition("=")
    return f"{name}=[{text}]" if name in ("tasks", "contenders") and not text.startswith("[") else argument


if __name__ == "__main__":
    run(main, sys.argv[1:])

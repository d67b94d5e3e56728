"""The pages that show the results: blocks of README.md and docs/results.md, and all of videos/README.md.

They are made from `videos/results.json` alone.
"""

import re
import shlex
from functools import partial

import numpy as np

from es_rl.compare.config import CompareConfig
from es_rl.compare.report.statistics import interval
from es_rl.compare.report.summary import LABELS, OURS, RANDOM, beats
from es_rl.run.screen import number

# Default minutes of each training.
MINUTES = {
    "InvertedDoublePendulum-v4": 5, "Swimmer-v4": 5, "HalfCheetah-v4": 5, "Hopper-v4": 5, "Walker2d-v4": 10,
    "Ant-v4": 10, "Humanoid-v4": 20,
}  # fmt: skip
OPPONENT = "ppo_fast"  # only a comparison with this opponent counts as a claim
BRIEF = (OURS, OPPONENT, "ars")  # the contenders in the README's table
LONG_MINUTES = 60  # keep and mark an older comparison if its trainings took at least this long
SAID = ("env", "minutes", "seeds", "against")  # keys that a command always shows
EARLY, LEVEL = 5, 0.9  # processor minutes at which curves are compared; ratio from which on two are level
# Environment steps at which curves are compared.
STEPS = {
    "InvertedDoublePendulum-v4": 200_000, "Swimmer-v4": 1_000_000, "HalfCheetah-v4": 1_000_000, "Hopper-v4": 1_000_000,
    "Walker2d-v4": 1_000_000, "Ant-v4": 650_000, "Humanoid-v4": 450_000,
}  # fmt: skip
UNSAID = ("film", "out")  # keys that a command never shows, because no result depends on them


def brief(results):
    """Return the README's block: medians by task. The best one of a row is bold, also if it is an opponent's."""
    claims = [result for result in results if OPPONENT in result["contenders"]]
    if not claims:
        return (
            "The comparison with PPO on the same fast environments has not been run to its end yet. What is known\n"
            "so far: [results](docs/results.md)."
        )
    left = [task for task in MINUTES if task not in {result["env"] for result in claims}]
    lines = ["Mean returns after the same minutes on one core each, median of three seeds"]
    lines += ["([all rows, every seed, and the command of each](docs/results.md)). "]
    lines[-1] += f"Still to be compared: {', '.join(left)}." if left else "All tasks:"
    lines += [""]
    lines += ["| task | minutes on a core | " + " | ".join(LABELS[name] for name in BRIEF) + " |", "|---" * 5 + "|"]
    for result in claims:
        returns = {name: result["contenders"].get(name, {}).get("returns") for name in BRIEF}
        medians = {name: np.median(values) for name, values in returns.items() if values}
        cells = [f"{number(medians[name])}" if name in medians else "–" for name in BRIEF]
        best = max(medians, key=medians.get, default=None)
        cells = [f"**{cell}**" if name == best else cell for name, cell in zip(BRIEF, cells, strict=True)]
        lines.append("| " + " | ".join([result["env"], f"{result['minutes']:g}", *cells]) + " |")
    return "\n".join(lines)


def table(results):
    """Return the block of docs/results.md: wins and losses, a row for each comparison, and a table of older ones."""
    claims = [result for result in results if OPPONENT in result["contenders"]]
    older = [r for r in results if r not in claims and r["minutes"] >= LONG_MINUTES]
    parts = [wins(claims), rows(claims), *equal_cost(claims), *equal_steps(claims)] if claims else []
    if older:
        text = f"Older and longer trainings, none of them against {LABELS[OPPONENT]}:"
        parts += [text, rows(older, opponent=True)]
    if (beside := max((result.get("side_by_side", 1) for result in claims), default=1)) > 1:
        parts.append(f"Up to {beside} comparisons ran side by side, each on a processor of its own.")
    if any("others" in row for result in (*claims, *older) for row in result["contenders"].values()):
        parts.append("† Other programs took over a tenth of the processors during a training, at most the share shown.")
    parts += earlier(claims)
    return "\n\n".join(parts)


def earlier(results):
    """Return what ‡ means, as a list of its parts: the comparisons that some contenders of other rows are from."""
    lines = []
    for result in results:
        groups = {}
        for name, row in result["contenders"].items():
            if about := row.get("earlier"):
                machine = about["machine"]
                made = f"{about['date']}, on {processors(machine)}: `{repeat(about['command'], machine)}`"
                groups.setdefault(made, []).append(LABELS[name])
        lines += [f"- {result['env']} ({'; '.join(names)}): {made}" for made, names in groups.items()]
    return ["‡ From an earlier comparison with the same minutes:", "\n".join(lines)] if lines else []


def wins(results):
    """Return a line for each opponent with the tasks that es_rl wins and loses, judged by medians."""
    lines = []
    for name in (name for name in LABELS if name not in (OURS, RANDOM)):
        groups = {1: [], -1: [], 0: []}
        for result in results:
            ours, theirs = (measured(result["contenders"].get(who)) for who in (OURS, name))
            if ours and theirs:
                sign, clear = beats(ours, theirs)
                groups[sign].append(result["env"] + ("" if clear or not sign else " (not clearly)"))
        tasks = sum(map(len, groups.values()))
        if tasks:
            said = [_verdict(f"wins {len(groups[1])} of {tasks}", groups[1])]
            said.append(_verdict(f"loses {len(groups[-1])}", groups[-1]))
            said += [_verdict(f"is level on {len(groups[0])}", groups[0])] if groups[0] else []
            lines.append(f"- Against {LABELS[name]}, es_rl {'; '.join(said)}.")
    head = "By the median of the seeds (not clearly: the 95 % intervals overlap, or there are fewer than three seeds):"
    return "\n".join([head, "", *lines])


def at_equal_cost(training):
    """Return the mean of a training's evaluations in its minute of processor time number `EARLY`; None without any."""
    return _between(training, "cpu_seconds", 60 * (EARLY - 1), 60 * EARLY)


def at_equal_steps(training, task):
    """Return the mean of a training's evaluations in the last fifth of the task's `STEPS`; None if it made fewer."""
    steps = STEPS.get(task, np.inf)
    reached = max((p["env_steps"] for p in training.get("curve") or ()), default=0) >= steps
    return _between(training, "env_steps", 0.8 * steps, steps) if reached else None


def _between(training, axis, first, last):
    seen = [p["return"] for p in training.get("curve") or () if first <= (p[axis] or 0) <= last]
    return float(np.mean(seen)) if seen else None


def equal_cost(results):
    """Return a table of es_rl beside `OPPONENT` after equal processor time, as a list of its parts."""
    head = (
        f"After equal processor time: the mean of a training's evaluations in minute {EARLY}. A cell is the median of\n"
        f"the seeds, with each seed's mean in brackets. A training without an evaluation in that minute is left out.\n"
        f"Level: within {1 - LEVEL:.0%}."
    )
    return _beside(results, "early", head, lambda task: task)


def equal_steps(results):
    """Return the same after equal environment steps."""
    head = (
        "After equal environment steps: the mean of a training's evaluations in the last fifth of them; of those\n"
        "trainings that made as many."
    )
    return _beside(results, "at_steps", head, lambda task: f"{task}, {STEPS[task] / 1e6:g} million")


def _beside(results, kind, head, label):
    """Return a table with es_rl's returns of a kind beside those of `OPPONENT`, under its head; nothing without any."""
    lines = []
    for result in results:
        ours, theirs = (result["contenders"].get(name, {}).get(kind) for name in (OURS, OPPONENT))
        if ours and theirs:
            one, other = np.median(ours), np.median(theirs)
            said = "level" if min(one, other) >= LEVEL * max(one, other) else "ahead" if one > other else "behind"
            cells = [f"{number(m)} ({', '.join(map(number, each))})" for m, each in ((one, ours), (other, theirs))]
            lines.append(f"| {' | '.join([label(result['env']), *cells])} | {one / other:.2f} | es_rl is {said} |")
    names = f"| task | {LABELS[OURS]} | {LABELS[OPPONENT]} | ratio | |\n|---|---|---|---|---|"
    return [head, "\n".join([names, *lines])] if lines else []


def _verdict(verb, tasks):
    return f"{verb}: {', '.join(tasks)}" if tasks else verb


def measured(contender):
    """Return a contender's returns, median and interval, as `beats` needs them; None if it has no returns."""
    if not contender or not contender["returns"]:
        return None
    returns = np.array(contender["returns"], np.float64)
    return {"returns": returns, "median": np.median(returns), "interval": interval(returns)}


def rows(results, *, opponent=False):
    """Return a Markdown table with a row for each comparison.

    The highest median of a row is bold, also if it is an opponent's. `opponent` is for older comparisons: it adds a
    column that names the opponent, and no median is bold.
    """
    names = [name for name in LABELS if any(name in result["contenders"] for result in results)]
    heads = ["task", "minutes each", *(["opponent"] if opponent else []), *(LABELS[name] for name in names)]
    heads += ["es_rl's steps, millions", "on", "repeat the row", "which takes"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for result in results:
        them = result["contenders"]
        medians = {name: np.median(row["returns"]) for name, row in them.items() if row["returns"]}
        cells = [
            cell(them.get(name), best=not opponent and medians.get(name) == max(medians.values())) for name in names
        ]
        marks = ["against RL-Zoo's PPO in one process" if "ppo" in them else "no opponent"] if opponent else []
        about = [f"{them[OURS]['env_steps'] / 1e6:.1f}", processors(result["machine"])]
        about += [f"`{repeat(result['command'], result['machine'])}`", duration(result)]
        lines.append("| " + " | ".join([result["env"], f"{result['minutes']:g}", *marks, *cells, *about]) + " |")
    return "\n".join(lines)


def cell(contender, *, best=False):
    """Return the median and the return of each seed; in bold if it is the best of its row."""
    if not contender:
        return "–"
    lost = f"{len(contender['failed'])} failed" if contender["failed"] else ""
    if not contender["returns"]:
        return lost
    each = ", ".join([*(number(value) for value in contender["returns"]), *([lost] if lost else [])])
    text = f"{number(np.median(contender['returns']))} ({each})" if ", " in each else each
    marks = f" †{contender['others']:.0%}" if "others" in contender else ""
    marks += " ‡" if "earlier" in contender else ""
    return (f"**{text}**" if best else text) + marks


def duration(result):
    """Return how long a comparison took. If that was not measured, return its training time as a lower limit."""
    trained = sum(
        len(row["returns"]) + len(row["failed"]) for name, row in result["contenders"].items() if name != RANDOM
    )
    took, least = result.get("took"), "" if result.get("took") else "over "
    minutes = took / 60 if took else trained * result["minutes"]
    return f"{least}{minutes:.0f} min" if minutes < 100 else f"{least}{minutes / 60:.1f} h"


def processors(machine):
    """Return the number and the name of a machine's processors, such as `2 AMD EPYC`."""
    name = re.sub(r"\(R\)| Processor$", "", machine["processor"])
    return f"{machine['processors']} {name}"


def repeat(command, machine):
    """Return the command that repeats a comparison, without keys that are not needed."""
    words = (word.partition("=") for word in shlex.split(re.sub(r"^taskset -c 0 ", "", command)))
    needed = [(name, equals, value) for name, equals, value in words if not _unsaid(name, value)]
    return on_core(shlex.join(name + equals + value.removesuffix(".0") for name, equals, value in needed), machine)


def _unsaid(name, value):
    """Tell whether a command can omit a key: because it has its default value, or because no result depends on it."""
    default = getattr(CompareConfig(), name, value + "?")
    return name in UNSAID or (name not in SAID and str(default) == value)


def short(command, machine):
    """Return a training's command without the keys `run` and `video.every`."""
    words = (word for word in command.split() if not word.startswith(("run=", "video.every=")))
    return on_core(" ".join(words), machine)


def on_core(command, machine):
    """Return a command, with `taskset` before it if its machine had one processor only."""
    return f"taskset -c 0 {command}" if machine["processors"] == 1 else command


def shown(results, result):
    """Tell whether a comparison's film and policy are shown: its task's longest one, against `OPPONENT` if one is."""
    return _rank(result) == max(_rank(other) for other in results if other["env"] == result["env"])


def _rank(result):
    return OPPONENT in result["contenders"], result["minutes"]


def clips(results):
    """Return the text of videos/README.md."""
    lines = [
        "# Trained policies",
        "",
        "Each clip is of the policy that its command trained, of the median seed.",
        "`es_rl.load('videos/policies/NAME')` is the policy itself. Made by `python scripts/make_results.py show`,",
        "with the settings of that day: today's presets may be others.",
        "",
    ]
    for result in filter(partial(shown, results), results):
        task, ours = result["env"], result["contenders"][OURS]
        name = task.partition("-")[0].lower()
        lines += [f"## {task}: [{name}.mp4]({name}.mp4)", "", f"`{result['train']}`", ""]
        lines += [f"Mean return of {result['episodes']} episodes, each seed's: "
                  f"{', '.join(f'{value:,.0f}' for value in ours['returns'])}. "
                  f"mujoco {result['versions']['mujoco']}, {processors(result['machine'])}, "
                  f"{result['date']}.", ""]  # fmt: skip
        lines += [f"![Return against minutes of training]({name}.png)", ""]
    return "\n".join(lines)

"""The page on several tasks: its figures, tables and texts. See `es_rl.compare.suite`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from es_rl.compare.report.figures import color, curve_style
from es_rl.compare.report.statistics import MIN_SEEDS
from es_rl.compare.report.summary import DISTURBED, LABELS, OURS, RANDOM, joined
from es_rl.compare.report.tables import csv_text
from es_rl.plot import web
from es_rl.plot.style import Drawing, canvas, finish
from es_rl.plot.web import escape
from es_rl.run.screen import number

if TYPE_CHECKING:
    from es_rl.compare.suite import Suite, Task


def draw(suite: Suite) -> dict[str, Drawing]:
    """Draw the interquartile means and the profiles, by file name; nothing if no task is in the aggregate."""
    return {"iqm": _means(suite), "profile": _profiles(suite)} if suite.entered else {}


def _means(suite: Suite) -> Drawing:
    with canvas(height=1.2 + 0.42 * len(suite.aggregates)) as (figure, axes):
        for i, (name, found) in enumerate(suite.aggregates.items()):
            if np.isfinite(found.interval[0]):
                axes.hlines(i, *found.interval, color=color(name), lw=9, alpha=0.3)
            axes.plot([found.iqm], [i], "|", color=color(name), ms=18, mew=2)
        axes.set_yticks(range(len(suite.aggregates)), [_label(name) for name in suite.aggregates])
        axes.set_ylim(len(suite.aggregates) - 0.4, -0.6)
        axes.set(xlabel="normalised score")
        text = f"Interquartile mean of the scores on {_tasks(suite.entered)}, with its 95 % interval."
        return finish(figure, axes, text)


def _profiles(suite: Suite) -> Drawing:
    with canvas() as (figure, axes):
        for name, found in suite.aggregates.items():
            axes.plot(suite.taus, found.profile, label=_label(name), **curve_style(name))
            if np.isfinite(found.band[0]).all():
                axes.fill_between(suite.taus, *found.band, color=color(name), alpha=0.18, lw=0)
        axes.set(xlabel="normalised score", ylabel="share of trainings that score more", ylim=(-0.02, 1.02))
        return finish(
            figure, axes, "Performance profile: the share of trainings with more than a score. Higher is better."
        )


def tables(suite: Suite) -> dict[str, str]:
    """Return the CSV files by name: scores of the trainings, medians of the tasks, means and profiles."""
    scores = [
        (task.env, name, run, value, score)
        for task in suite.entered
        for name in (*suite.compared, RANDOM)
        for run, (value, score) in enumerate(zip(task.found[name]["returns"], task.scores(name), strict=True))
    ]
    medians = [
        (task.env, task.results["minutes"], name, row["median"], len(row["returns"]))
        for task in suite.tasks
        for name, row in task.found.items()
    ]
    means = [(name, found.iqm, *found.interval) for name, found in suite.aggregates.items()]
    profiles = [
        (name, *point)
        for name, found in suite.aggregates.items()
        for point in zip(suite.taus, found.profile, *found.band, strict=True)
    ]
    return {
        "scores.csv": csv_text(("task", "contender", "run", "return", "score"), scores),
        "medians.csv": csv_text(("task", "minutes", "contender", "median", "seeds"), medians),
        "iqm.csv": csv_text(("contender", "iqm", "low", "high"), means),
        "profile.csv": csv_text(("contender", "tau", "share", "low", "high"), profiles),
    }


def page(suite: Suite, drawings: Mapping[str, Drawing]) -> str:
    """Return the page as self-contained HTML."""
    body = f"""<h1>es_rl and others on {_tasks(suite.tasks)}</h1>
<p class="headline">{escape(headline(suite))}</p>
<h2>Median returns</h2>
{_medians(suite)}
<p class="quiet">Bold: the highest median of a task. * fewer than {MIN_SEEDS} seeds. † beside a training, other programs
took more than {DISTURBED:.0%} of the processors.</p>
<h2>Wins and losses of es_rl, by medians</h2>
{_wins(suite)}
<h2>All tasks together</h2>
{_together(suite, drawings)}
<h2>Commands</h2>
<pre>{escape(chr(10).join(str(task.results.get("command", "–")) for task in suite.tasks))}</pre>"""
    return web.page("es_rl and others, all tasks", body)


def headline(suite: Suite) -> str:
    """Say which contender is best over all tasks, and how often es_rl wins and loses against each."""
    said = []
    for name, (won, lost, level) in suite.wins.items():
        if name != RANDOM:
            text = (
                f"Against {_label(name)}, es_rl wins {len(won)} of {_tasks(won + lost + level)} and loses {len(lost)}."
            )
            said.append(text)
    if len(suite.aggregates) > 1:
        first, second = sorted(suite.aggregates, key=lambda name: -suite.aggregates[name].iqm)[:2]
        (low, _), (_, high) = suite.aggregates[first].interval, suite.aggregates[second].interval
        means = [f"{_label(name)} ({suite.aggregates[name].iqm:.2f})" for name in (first, second)]
        unclear = "" if low > high else ", not clearly,"
        said.insert(
            0, f"Over {_tasks(suite.entered)}, {means[0]} has the highest mean score{unclear} before {means[1]}."
        )
    return " ".join(said)


def _tasks(tasks: Sequence[object]) -> str:
    return f"{len(tasks)} task{'s' * (len(tasks) != 1)}"


def _label(name: str) -> str:
    return LABELS.get(name, name)


def _medians(suite: Suite) -> str:
    names = [name for name in (OURS, *suite.wins) if any(name in task.found for task in suite.tasks)]
    rows = [("", [_task_cell(task), *(_median(task, name) for name in names)]) for task in suite.tasks]
    return web.table(["", *map(_label, names)], rows)


def _task_cell(task: Task) -> str:
    return f'{escape(task.env)} <span class="quiet">{task.results["minutes"]:g} min</span>'


def _median(task: Task, name: str) -> str:
    row = task.found.get(name)
    if row is None:
        return "–"
    marks = "*" * (len(row["returns"]) < MIN_SEEDS) + "†" * bool(row["disturbed"])
    text = number(row["median"]) + marks
    return f"<b>{text}</b>" if row["median"] == task.high else text


def _wins(suite: Suite) -> str:
    rows = []
    for name, groups in suite.wins.items():
        cells = [f"{len(tasks)}" + (f": {escape(', '.join(tasks))}" if tasks else "") for tasks in groups]
        rows.append(("", [web.swatch(color(name)) + escape(_label(name)), *cells]))
    return web.table(["against", "wins", "losses", "level"], rows)


def _together(suite: Suite, drawings: Mapping[str, Drawing]) -> str:
    """Return the aggregate, how it is computed, and what it leaves out."""
    left = "; ".join(f"{env} ({why})" for env, why in suite.left_out.items())
    aside = [name for name in (OURS, *suite.wins) if name not in (*suite.compared, RANDOM)]
    said = f"Left out: {left or 'no task'}." + (
        f" Not compared here: {joined([_label(n) for n in aside])}." if aside else ""
    )
    if not suite.entered:
        return f"<p>No task was run by all that are compared.</p><p>{escape(said)}</p>"
    rows = []
    for name, found in suite.aggregates.items():
        low, high = found.interval
        seeds = min(len(task.found[name]["returns"]) for task in suite.entered)
        mean = f"{found.iqm:.2f}"
        text = web.between(mean, f"{low:.2f}", f"{high:.2f}") if np.isfinite(low) else f"{mean} (n = {seeds})"
        rows.append(("ours" if name == OURS else "", [web.swatch(color(name)) + escape(_label(name)), text]))
    scale = "; ".join(f"{t.env} {number(t.low)} to {number(t.high)}" for t in suite.entered)
    return f"""{web.table(["", "interquartile mean of scores"], rows)}
{web.figures(drawings)}
<p class="quiet">Score of a training: (return − random) / (reference − random), where random is the random policy's
median and the reference the highest median of any contender on that task in these very results: {escape(scale)}. Scores
of all tasks are pooled, and the highest and the lowest quarter are left out of the mean. Intervals and bands: 95 %
stratified bootstrap, which draws the trainings of each task apart. No interval where a contender has fewer than
{MIN_SEEDS} seeds on a task. After Agarwal et al. 2021 (arXiv 2108.13264).</p>
<p>{escape(said)}</p>"""

"""The curves of runs as one self-contained HTML page, with their final numbers, settings and commands.

All texts are a stranger's, and are escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from es_rl.errors import printable
from es_rl.plot import panels, style, web
from es_rl.plot.curves import SIGMA, STEPS, Group, RunRecords, common_axis
from es_rl.plot.runs import differing, short, subject, value_text
from es_rl.plot.web import escape
from es_rl.run.screen import number

MOST = 80  # further metrics that are drawn, at most
KEYS = 200  # settings that are listed, at most
# The score of a run, the first of these that it has: its tags for mean, spread and best, and its name.
SCORES = (
    ("eval/return_mean", "eval/return_std", "eval/return_best", "return"),
    ("eval/reward_mean", "eval/reward_std", "eval/reward_best", "reward"),
    ("eval/bits_per_byte", "", "eval/bits_per_byte_best", "bits per byte"),
)
NO_SCORE = ("", "", "", "evaluation")


def page(groups: Sequence[Group], x: str) -> str:
    """Return the page. Raises `ConfigError` if the runs do not have the axis `x`."""
    runs = [run for group in groups for run in group.runs]
    axis = common_axis(runs, x)
    title = short(subject(runs)) or "es_rl"
    others = panels.other_panels(groups)
    body = f"""<h1>{escape(title)}</h1>
<p class="quiet">{escape(_count(groups))}</p>
<h2>Curves</h2>
{_figures(panels.main_panels(groups), groups, axis)}
<p class="quiet">{escape(panels.explained(groups))}</p>
<h2>Final numbers</h2>
{_finals(groups)}
{_summary(groups)}
{_settings(groups)}
<h2>Commands</h2>
{"".join(_command(run) for run in runs)}
<h2>All other metrics</h2>
{_others(others, groups, axis)}"""
    return web.page(f"{title}: curves", body)


def _count(groups: Sequence[Group]) -> str:
    count = sum(len(group.runs) for group in groups)
    if count == 1:
        return groups[0].runs[0].name
    many = "which differ only in their seed" if len(groups) == 1 else f"in {len(groups)} groups"
    return f"{count} runs, {many}"


def _swatch(index: int) -> str:
    return web.swatch(str(style.line_style(index)["color"]))


def _figures(shown: Sequence[panels.Panel], groups: Sequence[Group], axis: str) -> str:
    found = {}
    for panel in shown:
        name = short(printable(panel.tag))
        found[panel.tag] = style.Drawing(panels.picture(panel, groups, axis), b"", name)
    return web.figures(found)


def _others(others: Sequence[panels.Panel], groups: Sequence[Group], axis: str) -> str:
    left = f"<p>{len(others) - MOST} more are in metrics.jsonl.</p>" if len(others) > MOST else ""
    shown = others[:MOST]
    if not shown:
        return "<p>There are none.</p>"
    return f"<details><summary>{len(shown)} curves</summary>{_figures(shown, groups, axis)}{left}</details>"


def _each(groups: Sequence[Group]) -> Iterator[tuple[int, RunRecords]]:
    """Yield each run with the index of its group."""
    return ((i, run) for i, group in enumerate(groups) for run in group.runs)


def score(run: RunRecords) -> tuple[str, str, str, str]:
    """Return the tags of a run's score (mean, spread, best), and its name; empty tags if it was never evaluated."""
    return next((tags for tags in SCORES if tags[0] in run.tags), NO_SCORE)


def _finals(groups: Sequence[Group]) -> str:
    """Return a table of the last numbers of each run."""
    rows, heads = [], []
    for i, run in _each(groups):
        mean, spread, best, name = score(run)
        last = number(run.last(mean)) + (f" ± {number(run.last(spread))}" if spread else "")
        last = f'<span class="interval">{last}</span>'
        cells = {
            "run": (_swatch(i) if len(groups) > 1 else "") + escape(run.name),
            "seed": escape(value_text(run.config, "seed")),
            "generation": number(run.last("generation"), 0),
            STEPS.get(run.steps, "steps"): number(run.last(run.steps), 0) if run.steps in STEPS else "–",
            "minutes": number(run.last("seconds") / 60),
            f"{name}, last": last,
            f"{name}, best": number(run.last(best)),
            "fitness of members": number(run.last("fitness/mean")),
            "agreement": number(run.last("gradient/agreement")),
            SIGMA: _precise(run.last(SIGMA)),
        }
        heads += [head for head in cells if head not in heads]
        rows.append(cells)
    return web.table(heads, [("", [cells.get(head, "–") for head in heads]) for cells in rows])


def _precise(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "–"


def _summary(groups: Sequence[Group]) -> str:
    """Return a table of the groups: median over seeds, lowest and highest, of the last and the best evaluation."""
    if all(len(group.runs) == 1 for group in groups):
        return ""
    rows = []
    for i, group in enumerate(groups):
        last, best = ([run.last(score(run)[which]) for run in group.runs] for which in (0, 2))
        name = escape(group.label) or "all runs"
        rows.append(("", [_swatch(i) + name, str(len(group.runs)), _spread(last), _spread(best)]))
    return web.table(["group", "runs", "last evaluation", "best evaluation"], rows) + (
        '<p class="quiet">Median over seeds [lowest, highest].</p>'
    )


def _spread(values: Sequence[float]) -> str:
    known = np.array([value for value in values if math.isfinite(value)])
    if not len(known):
        return "–"
    return web.between(*map(number, (float(np.median(known)), float(known.min()), float(known.max()))))


def _settings(groups: Sequence[Group]) -> str:
    """Return a table of the keys in which groups differ."""
    if len(groups) == 1:
        return ""
    keys = differing([run for group in groups for run in group.runs])
    heads = ["key", *(panels.label(group) or f"group {i + 1}" for i, group in enumerate(groups))]
    rows = [
        ("", [escape(printable(key)), *(escape(value_text(group.runs[0].config, key)) for group in groups)])
        for key in keys[:KEYS]
    ]
    left = f"<p>{len(keys) - KEYS} more are in the runs' config.yaml.</p>" if len(keys) > KEYS else ""
    return f"<h2>Settings in which they differ</h2>{web.table(heads, rows)}{left}"


def _command(run: RunRecords) -> str:
    return f'<p class="quiet">{escape(run.name)}</p><pre>{escape(run.command or "not recorded")}</pre>'

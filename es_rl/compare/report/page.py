"""Write a comparison as one self-contained HTML file, its figures as SVG and PNG, and its numbers as CSV.

`results` is the content of `results.json`: see `es_rl.compare.__main__`. The report is computed from it and from the
videos beside it alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from es_rl.compare.report import figures
from es_rl.compare.report.statistics import MIN_SEEDS
from es_rl.compare.report.summary import (
    COSTS,
    DISTURBED,
    FAST,
    OURS,
    RANDOM,
    RESOURCES,
    Results,
    better,
    headline,
    joined,
    label,
    levels,
    runs,
    summary,
    time_text,
    times,
)
from es_rl.compare.report.tables import tables
from es_rl.plot import style, web
from es_rl.plot.web import escape
from es_rl.run.screen import number

EXPLAINED = f"""The deterministic, unperturbed policy with frozen normalisation on Gymnasium's own environment, mean of
{{episodes}} episodes that no training has seen. IQM: interquartile mean over seeds, with its 95 % bootstrap interval.
P(es_rl better): how probable it is that a training of es_rl returns more than one of theirs. Neither is told of fewer
than {MIN_SEEDS} seeds. A result is clear if the intervals lie apart and that of the probability excludes one half. With
three seeds an interval is the range of the three, and of two equal contenders one comes out clearly ahead once in ten
times: it is a hint, and more seeds are a proof. {{environments}}"""
SPENT = f"""Steps/s: environment steps by the seconds of the training. The minutes of es_rl include the evaluations of
its curve; those of the others do not. Trainings of this comparison ran one at a time, each with all processors that it
could use. Others: the largest share of these processors that other programs took during one of the trainings; above
{DISTURBED:.0%} it is marked."""


def write(out: Path, results: Results) -> None:
    """Write `report.html`, its figures and its tables into `out`, which holds the videos of the results."""
    drawings = figures.draw(results)
    for name, content in style.files(drawings).items():
        (out / name).write_bytes(content)
    for name, text in tables(results).items():
        (out / name).write_text(text, encoding="utf-8")
    videos = {}
    for run in runs(results):
        if "video" in run and run["name"] not in videos:
            videos[run["name"]] = run["seed"], (out / run["video"]).read_bytes()
    (out / "report.html").write_text(page(results, drawings, videos), encoding="utf-8")


def page(results: Results, drawings: Mapping[str, style.Drawing], videos: Mapping[str, tuple[int, bytes]]) -> str:
    """Return the report as self-contained HTML. `videos` has the seed and the content of each contender's video."""
    players = "".join(
        f'<figure><video controls loop muted autoplay playsinline src="{web.data("video/mp4", film)}"></video>'
        f"<figcaption>{escape(label(results, name))}, seed {seed}</figcaption></figure>"
        for name, (seed, film) in videos.items()
    )
    body = f"""<h1>{escape(results["env"])}</h1>
{_setting(results)}
<p class="headline">{escape(headline(results))}</p>
<h2>Returns after training</h2>
{_returns(results)}
<p class="quiet">{escape(EXPLAINED.format(episodes=results["episodes"], environments=_environments(results)))}</p>
<h2>What each had and used</h2>
{_resources(results)}
<p class="quiet">{escape(SPENT)}</p>
{_calibrations(results)}
<h2>How long to a return</h2>
{_times(results)}
<h2>Learning curves</h2>
{web.figures(drawings)}
<p class="quiet">Dots: evaluations during training. Lines: interquartile mean over seeds, bands: its 95 % bootstrap
interval; of fewer than {MIN_SEEDS} seeds each has its own line. The same figures are SVG and PNG files beside this
page, and their numbers are in curves.csv, returns.csv and summary.csv.</p>
<h2>Videos</h2>
<div class="videos">{players or "<p>There are none.</p>"}</div>
{_no_videos(results)}
{_repeat(results)}"""
    return web.page(f"{results['env']}: es_rl and others", body)


def _setting(results: Results) -> str:
    """Return what was run, where and when."""
    machines = sorted({_machine(run.get("machine", results["machine"])) for run in runs(results)})
    dates = sorted({run.get("date", results["date"]) for run in runs(results)})
    seeds = len({run["seed"] for run in runs(results)})
    text = f"{results['minutes']:g} minutes of training each, {seeds} seeds, {' and '.join(machines)}"
    return f'<p class="quiet">{escape(text)}, {escape(" to ".join(dict.fromkeys([dates[0], dates[-1]])))}</p>'


def _machine(machine: Results) -> str:
    count = "1 processor" if machine["processors"] == 1 else f"{machine['processors']} processors"
    return f"{count} ({machine['processor']}), {machine['memory_gb']} GB, {machine['system']}"


def _returns(results: Results) -> str:
    found = summary(results)
    best = max((row["median"] for row in found.values() if np.isfinite(row["median"])), default=np.nan)
    rows = []
    for name, row in found.items():
        few = f"n = {len(row['returns'])}" if len(row["returns"]) else "–"
        (low, high), (chance, least, most) = row["interval"], better(results, name)
        chances = web.between(f"{chance:.2f}", f"{least:.2f}", f"{most:.2f}") if np.isfinite(chance) else few
        median = number(row["median"])
        cells = [
            _name(results, name, row),
            ", ".join(number(value) for value in row["returns"]) or "–",
            f"<b>{median}</b>" if row["median"] == best else median,
            web.between(number(row["iqm"]), number(low), number(high)) if np.isfinite(low) else few,
            "–" if name == OURS else chances,
        ]
        rows.append(("ours" if name == OURS else "", cells))
    return web.table(["", "return of each seed", "median", "IQM", "P(es_rl better)"], rows)


def _name(results: Results, name: str, row: Mapping[str, Any]) -> str:
    """Return a contender's colour, short name, long name and problems."""
    short, long = label(results, name), str(results["labels"][name])
    text = web.swatch(figures.color(name)) + escape(short)
    text += f'<br><span class="quiet">{escape(long)}</span>' if long not in (short, "random actions") else ""
    text += "".join(f'<br><span class="bad">failed: {escape(reason)}</span>' for reason in row["failed"])
    if row["disturbed"]:
        seeds = f"seed{'s' if len(row['disturbed']) > 1 else ''} {', '.join(map(str, row['disturbed']))}"
        text += f'<br><span class="bad">{seeds}: other programs took up to {row["others"]:.0%} of the processors</span>'
    return text + (f'<br><span class="quiet">{row["missing"]} not run yet</span>' if row["missing"] else "")


def _environments(results: Results) -> str:
    """Say in whose environments the contenders train."""
    fast = [label(results, name) for name in results["labels"] if name in FAST]
    others = [label(results, name) for name in results["labels"] if name not in (*FAST, RANDOM)]
    parts = [f"{joined(fast)} train{'s' * (len(fast) == 1)} on es_rl's own environments where it has a fast one"]
    parts += [f"{joined(others)} on Gymnasium's, as their libraries do"] if others else []
    return f"{'; '.join(parts)}."


def _resources(results: Results) -> str:
    rows = []
    for name, row in summary(results).items():
        if name == RANDOM:
            continue  # nothing is trained
        had = [" or ".join(map(str, row["resources"][key])) or "–" for key in RESOURCES]
        others = f"{row['others']:.0%}" if np.isfinite(row["others"]) else "not measured"
        again = f", {row['repeated']} run again" if row["repeated"] else ""
        notes = "".join(f'<br><span class="quiet">{escape(note)}</span>' for note in row["notes"])
        cells = [
            web.swatch(figures.color(name)) + escape(label(results, name)) + notes,
            *map(escape, had),
            number(row["env_steps"] / row["seconds"] if row["seconds"] else np.nan, 0),
            number(row["env_steps"] / 1e6, 2),
            number(row["seconds"] / 60, 1),
            number(row["cpu_seconds"] / 3600, 2),
            f'<span class="bad">{others}{again}</span>' if row["disturbed"] else others + again,
        ]
        rows.append(("ours" if name == OURS else "", cells))
    heads = ["", *RESOURCES, "steps/s", "million steps", "minutes", "processor hours", "others"]
    return web.table(heads, rows)


def _calibrations(results: Results) -> str:
    """Return the trials that chose each contender's resources; empty if there were none."""
    tried = {run["name"]: run["calibration"] for run in runs(results) if run.get("calibration")}
    lines = [f"{label(results, name)}: {_trial(row)}" for name, rows in tried.items() for row in rows]
    if not lines:
        return ""
    return f"<details><summary>What was tried to find them</summary><pre>{escape(chr(10).join(lines))}</pre></details>"


def _trial(row: Mapping[str, Any]) -> str:
    """Return one way to run a contender, and the speed of each of its trials."""
    keys = ("environments", "threads", "physics_threads", "processes")
    way = ", ".join(f"{row[key]} {key.replace('_', ' ')}" for key in keys if row.get(key) is not None)
    speeds = " and ".join(number(speed, 0) for speed in np.atleast_1d(row.get("steps_per_second", np.nan)))
    return f"{way}: {speeds} steps/s"


def _times(results: Results) -> str:
    """Return the costs of reaching each of three returns, with one row per trained contender."""
    marks, found = levels(results), summary(results)
    if not marks:
        return "<p>No contender is better than the random policy.</p>"
    parts = []
    for text, cost in COSTS.values():
        rows = []
        for name in found:
            if name != RANDOM:
                cells = [time_text(times(results, name, mark, cost)) for mark in marks]
                first = web.swatch(figures.color(name)) + escape(label(results, name))
                rows.append(("ours" if name == OURS else "", [first, *map(escape, cells)]))
        heads = [text, *(f"to {mark:,g}" for mark in marks)]
        parts.append(f"<h3>{escape(text.capitalize())}</h3>" + web.table(heads, rows))
    return "".join(parts) + (
        '<p class="quiet">Where the curve of a training first reaches a return: median over seeds, a seed that never '
        "does counting as later than all, with its 95 % bootstrap interval and how many of the seeds did. The returns "
        "are the round numbers nearest to a quarter, a half and three quarters of the way from the random policy's "
        "median to the best median of all contenders.</p>"
    )


def _no_videos(results: Results) -> str:
    """Return the reason for each missing video."""
    lines = [f"{label(results, run['name'])}: {run['no_video']}" for run in runs(results) if run.get("no_video")]
    return "".join(f'<p class="bad">No video of {escape(line)}</p>' for line in lines)


def _repeat(results: Results) -> str:
    """Return the commands and versions needed to repeat the comparison."""
    versions = sorted({_versions(run.get("versions", results["versions"])) for run in runs(results)})
    commands = "\n".join(str(run["command"]) for run in runs(results))
    return f"""<h2>How to repeat it</h2>
<pre>{escape(results["command"])}</pre>
<p class="quiet">{escape("; or ".join(versions))}</p>
<details><summary>The command of each training</summary><pre>{escape(commands)}</pre></details>"""


def _versions(versions: Results) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())

"""A comparison as one HTML file that needs nothing else, and its figures as PNG.

`results` is what `results.json` holds: see `es_rl.compare`. Everything in the report is computed from it and from the
videos beside it.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_rl.screen import number
from es_rl.statistics import at, interval, iqm, probability_of_improvement

Results = Mapping[str, Any]
OURS = "es"
GRID = 100  # points of a curve
ENOUGH = 4  # seeds for an interquartile mean
FEW = "; of so few seeds the former is their mean and the latter their range"
DISTURBED = 0.03  # share of the processors' time that others may take during a training
COLORS = {"es": "#0b6e99", "ppo": "#d1495b", "ars": "#edae49", "random": "#8d96a3"}
# The axes of the curves: a point → its place on the axis.
AXES: dict[str, tuple[str, Callable[[Results], float]]] = {
    "wall-clock": ("minutes of training", lambda point: point["seconds"] / 60),
    "env-steps": ("environment steps, millions", lambda point: point["env_steps"] / 1e6),
    "cpu-hours": ("processor hours of training", lambda point: point["cpu_seconds"] / 3600),
}
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin-top: 2.4rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .45rem .7rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top }
th:first-child, td:first-child { text-align: left } tr.ours { background: var(--soft); font-weight: 600 }
.figures, .videos { display: flex; flex-wrap: wrap; gap: 1rem } .figures img { width: 100%; background: #fff }
.figures figure { flex: 1 1 24rem; max-width: 31rem; margin: 0 }
.videos figure { flex: 1 1 15rem; max-width: 31rem; margin: 0 } video { width: 100% }
figcaption, .quiet { opacity: .75; font-size: .88rem } code, pre { font-size: .82rem } pre { overflow-x: auto }
.failed { color: #c0392b; font-weight: 600 }
"""


def write(out: Path, results: Results) -> None:
    """`report.html` and the PNGs of its figures, into the directory that holds the results' videos."""
    figures = {name: _curves(results, name) for name in AXES} | {"returns": _returns(results)}
    for name, png in figures.items():
        (out / f"{name}.png").write_bytes(png)
    videos = {}
    for run in _runs(results):
        if "video" in run and run["name"] not in videos:
            videos[run["name"]] = run["seed"], (out / run["video"]).read_bytes()
    (out / "report.html").write_text(page(results, figures, videos))


def page(results: Results, figures: Mapping[str, bytes], videos: Mapping[str, tuple[int, bytes]]) -> str:
    """The report's HTML, with all that it shows inside; videos by contender, with the seed of each."""
    captions = {name: f"Return against {axis}." for name, (axis, _) in AXES.items()}
    captions["returns"] = "Each dot is one training; the bar is the interquartile mean with its 95 % interval."
    shown = "".join(
        f'<figure><img alt="{_text(captions[name])}" src="{_data("image/png", png)}">'
        f"<figcaption>{_text(captions[name])}</figcaption></figure>"
        for name, png in figures.items()
    )
    players = "".join(
        f'<figure><video controls loop muted autoplay playsinline src="{_data("video/mp4", film)}"></video>'
        f"<figcaption>{_text(results['labels'][name])}, seed {seed}</figcaption></figure>"
        for name, (seed, film) in videos.items()
    )
    machines = {_machine(run.get("machine", results["machine"])) for run in _runs(results)}
    versions = {_versions(run.get("versions", results["versions"])) for run in _runs(results)}
    where, seeds = " and ".join(sorted(machines)), len({run["seed"] for run in _runs(results)})
    dates = sorted({run.get("date", results["date"]) for run in _runs(results)})
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{_text(results["env"])}: es_rl and others</title><style>{STYLE}</style></head><body>
<h1>{_text(results["env"])}</h1>
<p class="quiet">{results["minutes"]:g} minutes of training each, {seeds} seeds, {_text(where)},
{_text(" to ".join(dict.fromkeys([dates[0], dates[-1]])))}</p>
<h2>Returns after training</h2>
{_table(results)}
<p class="quiet">The deterministic, unperturbed policy with frozen normalisation on Gymnasium's own environment, mean of
{results["episodes"]} episodes that no training has seen. IQM: interquartile mean over seeds, with its 95 % bootstrap
interval{FEW if seeds < ENOUGH else ""}. The minutes and CPU hours of es_rl include the evaluations of its curve,
its hours its start too; those of PPO do not. Trainings ran one at a time, each with all of these processors.</p>
<h2>Learning curves</h2>
<div class="figures">{shown}</div>
<p class="quiet">Dots: evaluations during training; lines: interquartile mean over seeds; bands: its 95 %
bootstrap interval.</p>
<h2>Videos</h2>
<div class="videos">{players or "<p>There are none.</p>"}</div>
<h2>How to repeat it</h2>
<pre>{_text(results["command"])}</pre>
<p class="quiet">{_text("; or ".join(sorted(versions)))}</p>
<details><summary>The command of each training</summary><pre>{_commands(results)}</pre></details>
</body></html>
"""


def _machine(machine: Results) -> str:
    name = f"{machine['processors']} processors ({machine['processor']}), {machine['memory_gb']} GB"
    return f"{name}, {machine['system']}"


def _versions(versions: Results) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def summary(results: Results) -> dict[str, dict[str, Any]]:
    """Of each contender: returns by seed, median, IQM and its interval, what was spent, and what failed."""
    found: dict[str, dict[str, Any]] = {}
    for name in results["labels"]:
        done = [run for run in _runs(results, name) if "return_mean" in run]
        returns = np.array([run["return_mean"] for run in done], np.float64)
        low, high = interval(returns) if len(returns) else (np.nan, np.nan)
        found[name] = {
            "returns": returns,
            "median": float(np.median(returns)) if done else np.nan,
            "iqm": float(iqm(returns)) if done else np.nan,
            "interval": (float(low), float(high)),
            "env_steps": float(np.mean([run["env_steps"] for run in done])) if done else np.nan,
            "seconds": float(np.mean([run["seconds"] for run in done])) if done else np.nan,
            "cpu_seconds": float(np.mean([run.get("cpu_seconds", np.nan) for run in done])) if done else np.nan,
            "failed": [run["failed"] for run in _runs(results, name) if "failed" in run],
            "others": max((run.get("others", 0.0) for run in done), default=0.0),
            "missing": sum("failed" not in run and "return_mean" not in run for run in _runs(results, name)),
        }
    return found


def _table(results: Results) -> str:
    found = summary(results)
    rows = []
    for name, row in found.items():
        better = "–"
        if name != OURS and len(row["returns"]) and len(found[OURS]["returns"]):
            chance, low, high = probability_of_improvement(found[OURS]["returns"], row["returns"])
            better = f"{chance:.2f}" + (f" [{low:.2f}, {high:.2f}]" if np.isfinite(low) else "")
        low, high = row["interval"]
        cells = [
            _text(results["labels"][name]) + _troubles(row),
            ", ".join(number(value) for value in row["returns"]) or "–",
            number(row["median"]),
            number(row["iqm"]) + (f" [{number(low)}, {number(high)}]" if np.isfinite(low) else ""),
            better,
            number(row["seconds"] / 60, 2),
            number(row["env_steps"] / 1e6, 2),
            number(row["env_steps"] / row["seconds"] if row["seconds"] else np.nan),
            number(row["cpu_seconds"] / 3600, 2),
        ]
        kind = ' class="ours"' if name == OURS else ""
        rows.append(f"<tr{kind}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heads = [
        "",
        "return of each seed",
        "median",
        "IQM",
        "P(es_rl better)",
        "minutes",
        "million steps",
        "steps/s",
        "CPU hours",
    ]
    return "<table><tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>" + "".join(rows) + "</table>"


def _troubles(row: Mapping[str, Any]) -> str:
    """What failed, what was disturbed, and what has not been run yet."""
    text = "".join(f'<br><span class="failed">failed: {_text(reason)}</span>' for reason in row["failed"])
    if row["others"] > DISTURBED:
        text += f'<br><span class="failed">other programs took {row["others"]:.0%} of the processors</span>'
    return text + (f'<br><span class="quiet">{row["missing"]} not run yet</span>' if row["missing"] else "")


def _curves(results: Results, name: str) -> bytes:
    """Return against one of the axes, a line and a band for each contender."""
    label, place = AXES[name]
    figure, axes = _canvas()
    for contender, title in results["labels"].items():
        done = [run for run in _runs(results, contender) if "return_mean" in run]
        color = COLORS.get(contender)
        if contender == "random" and done:
            axes.axhline(np.mean([run["return_mean"] for run in done]), color=color, ls="--", label=title)
            continue
        curves = [_points(run, place) for run in done if run.get("curve")]
        if not curves:
            continue
        for x, y in curves:
            axes.plot(x, y, ".", color=color, alpha=0.3, ms=4)
        grid = np.linspace(max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves), GRID)
        values = at(grid, curves)  # (K, T)
        axes.plot(grid, iqm(values), color=color, label=title)
        if len(values) > 1:
            axes.fill_between(grid, *interval(values), color=color, alpha=0.2, lw=0)
    axes.set(xlabel=label, ylabel="return")
    return _png(figure, axes)


def _points(run: Results, place: Callable[[Results], float]) -> tuple[NDArray[np.float64], Any]:
    curve = run["curve"]
    return np.array([place(point) for point in curve]), np.array([point["return"] for point in curve])


def _returns(results: Results) -> bytes:
    """The return of each training, and the IQM of each contender."""
    figure, axes = _canvas()
    found = summary(results)
    for i, (name, row) in enumerate(found.items()):
        color = COLORS.get(name)
        if len(row["returns"]):
            axes.bar(i, row["iqm"], color=color, alpha=0.35, width=0.6)
            axes.plot(np.full(len(row["returns"]), i), row["returns"], "o", color=color, label=results["labels"][name])
            low, high = row["interval"]
            if np.isfinite(low):
                axes.vlines(i, low, high, color=color, lw=2)
    axes.set(ylabel="return")
    axes.set_xticks(range(len(found)), list(found))
    return _png(figure, axes)


def _canvas() -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot: no window system is looked for

    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _png(figure: Any, axes: Any) -> bytes:
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _runs(results: Results, name: str = "") -> Iterator[Any]:
    return (run for run in results["runs"] if not name or run["name"] == name)


def _commands(results: Results) -> str:
    return "\n".join(_text(run["command"]) for run in _runs(results))


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _text(text: str) -> str:
    return html.escape(str(text))

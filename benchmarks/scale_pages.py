"""Figures and tables of the documentation from benchmarks/scale.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import FormatStrFormatter
from scale_cores import OURS, THEIRS, Trainer
from scale_model import Costs, Setting, efficiency
from scipy.optimize import nnls

from es_rl.plot.style import NUMBER, Drawing, canvas, finish, line_style

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- {}: made by benchmarks/scale.py -->", "<!-- /{} -->"
WORKERS = (10, 32, 100, 320, 1000, 3200, 8192)
MODELLED = ((1024, 1), (8192, 1), (65536, 1), (8192, 16), (65536, 16), (65536, 64))  # members, and episodes of each
GOOD = 0.95
AT = 1000  # workers of the table of what costs what
SHORT = 500  # workers from which on the model runs one generation only


def write(raw: Mapping[str, Any]) -> None:
    """Write all figures, and the generated parts of pages, for which there are results."""
    guide, when = DOCS / "guides" / "cluster.md", DOCS / "when.md"
    if "measured" in raw:
        _put(guide, "measured", measured(raw["measured"]))
    if "local" in raw:
        _put(guide, "local", local(raw["local"]))
    if {"measured", "lengths"} <= raw.keys():
        costs, lengths = costs_of(raw), np.array(raw["lengths"]["found"]["lengths"])
        grid = modelled(costs, lengths)
        _draw("cluster_model", figure(grid))
        _put(guide, "model", "\n\n".join([told(raw, costs, grid), table(costs, lengths), checked(raw, costs)]))
    if "cores" in raw:
        for env in dict.fromkeys(row["env"] for row in raw["cores"]["found"]):
            rows = [row for row in raw["cores"]["found"] if row["env"] == env]
            _draw(f"cores_{env.partition('-')[0].lower()}", crossing(rows))
        _put(when, "cores", cores(raw["cores"]))


def _put(page: Path, part: str, text: str) -> None:
    """Put a text between the markers of a part of a page. Raises ValueError unless each is there once."""
    content, begin, end = page.read_text(encoding="utf-8"), BEGIN.format(part), END.format(part)
    if content.count(begin) != 1 or content.count(end) != 1:
        raise ValueError(f"{page}: {begin} and {end} must each be there once")
    page.write_text(f"{content.split(begin)[0]}{begin}\n{text}\n{end}{content.split(end)[1]}", encoding="utf-8")


def _draw(name: str, drawing: Drawing) -> None:
    (DOCS / "_static" / f"{name}.svg").write_text(drawing.svg, encoding="utf-8")


def _said(part: Mapping[str, Any]) -> str:
    """Return when and on what something was measured."""
    m = part["machine"]
    cores_ = "1 core" if m["processors"] == 1 else f"{m['processors']} cores"
    return f"`{part['command']}`, {part['date']}, {cores_} of {m['processor']}, shared with other work."


def measured(part: Mapping[str, Any]) -> str:
    """Return the table of what was measured on simulated nodes, and the bytes."""
    rows, size = part["found"]["rows"], part["found"]["bytes"]
    lines = ["| nodes | actors | seconds a job | efficiency | results/s | share of a core that the parent uses |"]
    lines.append("|---" * 6 + "|")
    for r in rows:
        cells = (f"{r['job_seconds']:.2f}", f"{r['efficiency']:.3f}", f"{r['results_per_second']:.2f}")
        lines.append(f"| {r['nodes']} | {r['actors']} | {' | '.join(cells)} | {100 * r['parent_share']:.1f} % |")
    bytes_ = (
        f"A member takes {size['out']:.1f} bytes out and {size['in']:.1f} bytes in (chunks of 64 members, whole "
        f"episodes, without statistics of observations)."
    )
    return "\n".join([*lines, "", bytes_, "", _said(part)])


def local(part: Mapping[str, Any]) -> str:
    """Return the throughput of a cluster of one machine against that of a local pool."""
    ratios = [row["cluster"] / row["pool"] for row in part["found"]["rows"]]
    each = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    return (
        f"`cluster.address=local` has {part['found']['ratio']:.3f} of the throughput of a pool of processes: median of "
        f"{len(ratios)} generations of each, in turn ({each}). {_said(part)}"
    )


def costs_of(raw: Mapping[str, Any]) -> Costs:
    """Return the costs for the model: the parent's processor time is fitted by least squares.

    In `wall` seconds it uses about wall·waiting + wall·actors·listening + jobs·job.
    """
    rows = raw["measured"]["found"]["rows"]
    parts = np.array([[r["wall"], r["wall"] * r["actors"], r["jobs"]] for r in rows])
    used = np.array([r["wall"] * r["parent_share"] for r in rows])
    (waiting, listening, job), _ = nnls(parts, used)
    step = rows[0]["job_seconds"] / 64 / rows[0]["length"]
    return Costs(job, raw["lengths"]["found"]["update"], step, waiting=waiting, listening=listening)


def modelled(costs: Costs, lengths: np.ndarray) -> dict[tuple[int, int], dict[int, float]]:
    """Return the model's efficiency: (members, episodes of each) → workers → share."""
    return {
        (members, episodes): {
            n: efficiency(Setting(n, members, episodes=episodes), costs, lengths, generations=1 if n > SHORT else 3)
            for n in WORKERS
        }
        for members, episodes in MODELLED
    }


def _named(members: int, episodes: int) -> str:
    return f"{members:,} members" + (f" of {episodes} episodes" if episodes > 1 else "")


def figure(grid: Mapping[tuple[int, int], Mapping[int, float]]) -> Drawing:
    """Draw the model's efficiency against the number of workers."""
    with canvas() as (fig, axes):
        for i, (setting, points) in enumerate(grid.items()):
            axes.plot([*points], [*points.values()], label=_named(*setting), marker="o", ms=3, **line_style(i))
        axes.axhline(GOOD, color="#6c6c6c", lw=0.8, ls=(0, (1, 3)))
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(NUMBER)
        axes.set(xlabel="workers (a model, not measured)", ylabel="efficiency", ylim=(0, 1.02))
        return finish(fig, axes, "A model of efficiency by the number of workers.")


def told(raw: Mapping[str, Any], costs: Costs, grid: Mapping[tuple[int, int], Mapping[int, float]]) -> str:
    """Return what the model says, and what it computes with."""
    found = raw["lengths"]["found"]
    lengths = np.array(found["lengths"])
    limits = []
    for setting, points in grid.items():
        good = [workers for workers, share in points.items() if share >= GOOD]
        limits.append(f"{max(good):,} workers with {_named(*setting)}" if good else f"none with {_named(*setting)}")
    return (
        f"```{{image}} ../_static/cluster_model.svg\n:alt: A model of efficiency by the number of workers\n```\n\n"
        f"**A model, not a measurement.** It plays generations of {found['env']} by discrete events: "
        f"{costs.step * 1e6:.0f} µs a step, recorded episodes of {lengths.min()} to {lengths.max()} steps "
        f"(mean {lengths.mean():.0f}), {costs.job * 1e3:.2f} ms of the parent for a job, {costs.waiting * 1e3:.1f} ms "
        f"in each second and {costs.listening * 1e3:.2f} ms more for each worker (fitted to the table above), and "
        f"{costs.update * 1e6:.1f} µs for the update of a member ({found['parameters']:,} numbers in theta). Of the "
        f"numbers of workers in the figure, efficiency is {GOOD:g} or more up to {'; '.join(limits)}. The update is "
        f"computed by the parent alone, while workers wait: more episodes of each member make its share smaller."
    )


def table(costs: Costs, lengths: np.ndarray) -> str:
    """Return what chunk size, stragglers and losses cost, by the model."""
    base = dict(zip(("workers", "population", "episodes"), (AT, *MODELLED[-1]), strict=True))
    changes: list[tuple[str, dict[str, Any]]] = [
        ("nothing changed", {}), ("one episode of each member", {"episodes": 1}),
        ("8,192 members", {"population": 8192}), ("16 members in each job", {"chunk": 16, "whole": True}),
        ("64 members in each job", {"chunk": 64, "whole": True}),
        ("1 % of workers ten times as slow", {"slow": 0.01}), ("each node of 32 is lost once an hour", {"losses": 1.0}),
        ("each node is lost every five minutes", {"losses": 12.0}),
    ]  # fmt: skip
    lines = [f"| {AT:,} workers, {_named(base['population'], base['episodes'])} (model) | efficiency |", "|---|---|"]
    for what, change in changes:
        lines.append(f"| {what} | {efficiency(Setting(**base | change), costs, lengths):.3f} |")
    return "\n".join(lines)


def checked(raw: Mapping[str, Any], costs: Costs) -> str:
    """Return the model's efficiency beside the measured one, where both exist."""
    lines = ["| actors | seconds a job | measured | model |", "|---|---|---|---|"]
    costs = replace(costs, update=0.0)
    for r in raw["measured"]["found"]["rows"]:
        found = efficiency(Setting(r["actors"], 64 * r["jobs"], whole=True), costs, np.array([r["length"]]))
        cells = f"{r['actors']} on {r['nodes']} nodes | {r['job_seconds']:.2f} | {r['efficiency']:.3f} | {found:.3f}"
        lines.append(f"| {cells} |")
    return "\n".join(["The model against what was measured. It is too optimistic for short jobs:", "", *lines])


def crossing(rows: Sequence[Mapping[str, Any]]) -> Drawing:
    """Draw the minutes until one task's returns against the number of cores."""
    counts = [2**i for i in range(11)]
    with canvas() as (fig, axes):
        for i, row in enumerate(rows):
            for who, label, dash in ((OURS, "es_rl", "-"), (THEIRS, "PPO", (0, (5, 1.5)))):
                trainer = Trainer(**row[who])
                if trainer.steps is not None:
                    minutes = [(trainer.seconds(n) or 0.0) / 60 for n in counts]
                    style = line_style(i) | {"ls": dash}
                    axes.plot(counts, minutes, label=f"{label}, return {row['return']:,.0f}", **style)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter(NUMBER)
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(FormatStrFormatter("%g"))
        axes.set(xlabel="cores (computed from one)", ylabel="minutes", title=rows[0]["env"])
        return finish(fig, axes, "Minutes until a return by the number of cores.")


def cores(part: Mapping[str, Any]) -> str:
    """Return the table of crossovers."""
    rows = part["found"]
    lines = [
        "| task | return | of PPO's best | fewest cores with which es_rl is first "
        "| serial share of es_rl | of PPO | seeds |"
    ]
    lines.append("|---" * 7 + "|")
    for r in rows:
        n = r["cores"]
        first = "none" if n is None else f"{n:,}"  # with many more cores, PPO may be first again: the figures show it
        shares = f"{r[OURS]['serial']:.2f} | {r[THEIRS]['serial']:.2f}"
        lines.append(
            f"| {r['env']} | {r['return']:,.0f} | {100 * r['share']:.0f} % | {first} | {shares} | {r['seeds']} |"
        )
    figures = [f"```{{image}} _static/cores_{env.partition('-')[0].lower()}.svg\n:alt: Minutes by cores on {env}\n```"
               for env in dict.fromkeys(row["env"] for row in rows)]  # fmt: skip
    return "\n".join([*lines, "", _said(part), "", *figures])

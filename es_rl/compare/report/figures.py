"""The figures of a comparison, as SVG and PNG. A contender has the same colour, dashes and marker in all of them.

Figures are deterministic: the same results give the same bytes. The text of an SVG stays text. Its background and text
colours follow the reader's dark or light scheme.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from es_rl.compare.report.statistics import MIN_SEEDS, Array, at, interval, iqm
from es_rl.compare.report.summary import COSTS, RANDOM, Results, curve, finished, label, summary

# Distinct also for readers who confuse red and green, or blue and yellow; contrast at least 3:1 on both backgrounds.
COLORS = {
    "es": "#5d8dfa",
    "ppo_fast": "#b04623",
    "ppo": "#b88c03",
    "sac": "#0fa762",
    "ars": "#b915a7",
    "evotorch": "#7838ff",
    "random": "#6c6c6c",
}
DASHES: dict[str, Any] = {
    "es": "-",
    "ppo_fast": (0, (5, 1.5)),
    "ppo": (0, (1.5, 1.5)),
    "sac": (0, (6, 1.5, 1.5, 1.5)),
    "ars": (0, (3, 1)),
    "evotorch": (0, (6, 1.5, 1.5, 1.5, 1.5, 1.5)),
    "random": (0, (1, 3)),
}
MARKERS = {"es": "o", "ppo_fast": "s", "ppo": "D", "sac": "^", "ars": "v", "evotorch": "P", "random": "x"}
PAPER, INK = "#ffffff", "#333333"
DARK_PAPER, DARK_INK = "#17191e", "#d5d8de"
GRID = 100  # points at which a curve is drawn
FAR = 10.0  # the cost axis is logarithmic if the ends of the curves differ by more than this factor
SIZE = (5.0, 3.9)  # width and height, inches
RC: dict[Any, Any] = {
    "svg.hashsalt": "es_rl",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}
DARK = f"""<style>@media (prefers-color-scheme: dark) {{
[style*="fill: {PAPER}"] {{ fill: {DARK_PAPER} !important }} [style*="fill: {INK}"] {{ fill: {DARK_INK} !important }}
[style*="stroke: {INK}"] {{ stroke: {DARK_INK} !important }} }}</style>"""


@dataclass(frozen=True)
class Drawing:
    """One figure in both formats, with its caption."""

    svg: str
    png: bytes
    caption: str


def draw(results: Results) -> dict[str, Drawing]:
    """Draw every figure of one comparison, by file name: the curves against each cost, and the returns."""
    return {name: curves(results, name) for name in COSTS} | {"returns": returns(results)}


def curves(results: Results, name: str) -> Drawing:
    """Draw the return against one cost: a line and a band for each contender with enough seeds."""
    text, cost = COSTS[name]
    with canvas() as (figure, axes):
        found = {who: [c for r in finished(results, who) if len((c := curve(r, cost))[0])] for who in summary(results)}
        log = _far_apart([x for pairs in found.values() for x, _ in pairs])
        for who, pairs in found.items():
            if who == RANDOM:
                _level(axes, who, label(results, who), [run["return_mean"] for run in finished(results, who)])
            elif pairs:
                _curve(axes, who, label(results, who), [(x[x > 0], y[x > 0]) for x, y in pairs] if log else pairs)
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:,.6g}")
        axes.yaxis.set_major_formatter("{x:,.6g}")
        axes.set(xlabel=text, ylabel="return")
        return finish(figure, axes, f"Return against {text}{', logarithmic' if log else ''}.")


def _far_apart(xs: Sequence[Array]) -> bool:
    """Tell whether the costs at the ends of the curves differ by more than a factor of `FAR`."""
    ends = [float(x[-1]) for x in xs if x[-1] > 0]
    return bool(ends) and max(ends) > FAR * min(ends)


def _level(axes: Any, who: str, text: str, values: Sequence[float]) -> None:
    if values:
        axes.axhline(np.median(values), label=text, **curve_style(who))


def _curve(axes: Any, who: str, text: str, pairs: Sequence[tuple[Array, Array]]) -> None:
    """Draw the evaluations as dots, and their IQM with its band; with too few seeds, one line per seed."""
    for x, y in pairs:
        axes.plot(x, y, ".", color=color(who), alpha=0.35, ms=3)
    if len(pairs) < MIN_SEEDS:
        for i, (x, y) in enumerate(pairs):
            axes.plot(x, y, label=f"{text}, n = {len(pairs)}" if i == 0 else None, **curve_style(who))
        return
    start, end = max(x[0] for x, _ in pairs if len(x)), min(x[-1] for x, _ in pairs if len(x))
    if not 0 <= start < end:
        return
    grid = (
        np.linspace(start, end, GRID) if start == 0 else np.unique([*np.geomspace(start, end, GRID)[1:-1], start, end])
    )
    values = at(grid, pairs)  # (K, T)
    axes.plot(grid, iqm(values), label=text, **curve_style(who))
    axes.fill_between(grid, *interval(values), color=color(who), alpha=0.18, lw=0)


def returns(results: Results) -> Drawing:
    """Draw the return of each training, and each contender's median and interval of the IQM."""
    found = summary(results)
    with canvas(height=1.2 + 0.42 * len(found)) as (figure, axes):
        for i, (who, row) in enumerate(found.items()):
            place = np.full(len(row["returns"]), i)
            low, high = row["interval"]
            if np.isfinite(low):
                axes.hlines(i, low, high, color=color(who), lw=9, alpha=0.3)
            axes.plot(row["returns"], place, MARKERS.get(who, "o"), color=color(who), ms=5)
            axes.plot([row["median"]], [i], "|", color=color(who), ms=18, mew=2)
        axes.set_yticks(range(len(found)), [label(results, who) for who in found])
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.xaxis.set_major_formatter("{x:,.6g}")
        axes.set(xlabel="return")
        caption = "Each mark is one training, the upright line their median"
        return finish(figure, axes, f"{caption}; the bar is the 95 % interval of the interquartile mean.")


def color(who: str) -> str:
    """Return the colour of a contender."""
    return COLORS.get(who, INK)


def curve_style(who: str) -> dict[str, Any]:
    """Return the line style of a contender."""
    return {"color": color(who), "ls": DASHES.get(who, "-"), "lw": 1.8}


@contextmanager
def canvas(height: float = SIZE[1]) -> Iterator[tuple[Any, Any]]:
    """Yield a figure and its axes; the report's style applies inside the block."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # pyplot would look for a window system

    with rc_context(RC):
        figure = Figure(figsize=(SIZE[0], height), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
        yield figure, axes


def finish(figure: Any, axes: Any, caption: str) -> Drawing:
    """Add the legend and render the figure. Call it inside the `canvas` block."""
    handles, names = axes.get_legend_handles_labels()
    if names:
        figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=9, handlelength=3)
    svg, png = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
    head, mark, rest = svg.getvalue().partition(" <defs>")
    return Drawing(head + DARK + "\n" + mark + rest, png.getvalue(), caption)


def files(drawings: Mapping[str, Drawing]) -> dict[str, bytes]:
    """Return the content of each figure's files, by file name."""
    svg = {f"{name}.svg": drawing.svg.encode() for name, drawing in drawings.items()}
    return svg | {f"{name}.png": drawing.png for name, drawing in drawings.items()}

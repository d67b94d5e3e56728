"""The figures of a comparison, as SVG and PNG. A contender has the same colour, dashes and marker in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from es_rl.compare.report.statistics import MIN_SEEDS, Array, interval, iqm
from es_rl.compare.report.summary import COSTS, RANDOM, Results, curve, finished, label, summary
from es_rl.plot import style
from es_rl.plot.curves import at
from es_rl.plot.style import INK, NUMBER, WIDTH, Drawing, canvas, finish

CONTENDERS = ("es", "ppo_fast", "ppo", "sac", "ars", "evotorch", RANDOM)
COLORS = dict(zip(CONTENDERS, style.COLORS, strict=True))
DASHES: dict[str, Any] = dict(zip(CONTENDERS, style.DASHES, strict=True))
MARKERS = dict(zip(CONTENDERS, ("o", "s", "D", "^", "v", "P", "x"), strict=True))
GRID = 100  # points at which a curve is drawn
FAR = 10.0  # the cost axis is logarithmic if the ends of the curves differ by more than this factor


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
            axes.xaxis.set_major_formatter(NUMBER)
        axes.yaxis.set_major_formatter(NUMBER)
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
        axes.xaxis.set_major_formatter(NUMBER)
        axes.set(xlabel="return")
        caption = "Each mark is one training, the upright line their median"
        return finish(figure, axes, f"{caption}; the bar is the 95 % interval of the interquartile mean.")


def color(who: str) -> str:
    """Return the colour of a contender."""
    return COLORS.get(who, INK)


def curve_style(who: str) -> dict[str, Any]:
    """Return the line style of a contender."""
    return {"color": color(who), "ls": DASHES.get(who, "-"), "lw": WIDTH}

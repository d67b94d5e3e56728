"""Draw the curves of runs: a panel for each metric, a colour for each group of runs that differ only in their seed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from es_rl.errors import ConfigError, printable
from es_rl.plot import style
from es_rl.plot.curves import (
    AUTO,
    MANY,
    SIGMA,
    STEPS,
    Array,
    Band,
    Group,
    Record,
    RunRecords,
    axis_text,
    band,
    common_axis,
    in_order,
)
from es_rl.plot.runs import read, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Records = Sequence[Record]
Source = str | Path | Records | RunRecords


@dataclass(frozen=True)
class Panel:
    """One metric: its tag in metrics.jsonl, what it is, and the tag of its standard deviation, if it has one."""

    tag: str
    text: str
    spread: str = ""
    levels: bool = False  # constants of the task, `baseline/…`, are drawn too


PANELS = (
    Panel("eval/return_mean", "return, evaluated", "eval/return_std"),
    Panel("eval/reward_mean", "reward, evaluated", "eval/reward_std", levels=True),
    Panel("eval/bits_per_byte", "bits per byte, evaluated", levels=True),
    Panel("return/mean", "return of members"),
    Panel("fitness/mean", "fitness of members", "fitness/std"),
    Panel("eval/length_mean", "episode length, evaluated"),
    Panel("length/mean", "episode length of members"),
    Panel(SIGMA, "sigma"),
    Panel("gradient/agreement", "agreement of the population's halves"),
    Panel("critic/explained_variance", "explained variance of the critic"),
    Panel("explore/std", "noise on outputs"),
    Panel("steps/clipped", "share of steps with a limited score"),
    Panel("kl", "distance from the starting model"),
    Panel("members/failed", "failed members"),
    Panel("time/steps_per_second", "environment steps per second"),
    Panel("time/tokens_per_second", "tokens per second"),
    Panel("time/generation", "seconds of a generation"),
)
LEVELS = "baseline/"
ON_AN_AXIS = {*STEPS, "generation", "seconds"}
COLUMNS, CELL = 3, (4.2, 2.7)  # panels side by side at most; their width and height, inches
ROW = 0.2  # height of a line of the legend, inches
NAMED = 24  # groups that a legend names, at most
FEW = 40  # points of a curve up to which each is marked


def figure(curves: Source | Mapping[str, Source | Sequence[Source]], *, x: str = AUTO) -> Figure:
    """Return a matplotlib figure of the curves of one run, or of several.

    `curves` is a run directory, or the records of a run: a list of dicts, one for each generation. A dict of such
    curves by labels compares them; a list of them under one label is a band, such as one over seeds. `x` is the axis:
    `steps` for environment steps or tokens, whatever the runs count, `generation`, `minutes` or `processor_hours`.
    Raises `ConfigError` for an unknown axis or for nothing to draw, and `CheckpointError` for what is not a run.
    """
    labelled = curves if isinstance(curves, Mapping) else {"": curves}
    groups = [Group(printable(label), _sources(label, source)) for label, source in labelled.items()]
    if not groups:
        raise ConfigError("curves: there are none. Give the records of at least one run.")
    drawn: Any = overview(groups, x)
    drawn._repr_png_ = partial(style.png, drawn)  # a notebook shows it, though pyplot was not imported
    result: Figure = drawn
    return result


def overview(groups: Sequence[Group], x: str, title: str = "") -> Figure:
    """Draw the main panels of groups side by side. Raises `ConfigError` if there is nothing to draw."""
    axis = common_axis([run for group in groups for run in group.runs], x)
    panels = main_panels(groups)
    if not panels:
        raise ConfigError("there is nothing to draw: the records hold no metric. Give records of a training.")
    columns = min(COLUMNS, len(panels)) if len(panels) != 4 else 2
    rows = -(-len(panels) // columns)
    handles, texts = legend(groups)
    texts.append(explained(groups))
    with style.sheet(CELL[0] * columns, CELL[1] * rows + ROW * (1 + len(texts))) as drawn, plainly():
        for i, panel in enumerate(panels):
            axes = drawn.add_subplot(rows, columns, i + 1)
            style.plain(axes)
            draw(axes, panel, groups, axis)
        style.legend(drawn, [*handles, _nothing()], texts)
        if title:
            drawn.suptitle(short(title), x=0.01, ha="left", fontsize=12)
        result: Figure = drawn
        return result


def picture(panel: Panel, groups: Sequence[Group], axis: str) -> str:
    """Draw one panel alone, as SVG."""
    handles, texts = legend(groups)
    with style.canvas(height=2.9 + ROW * len(texts)) as (drawn, axes), plainly():
        draw(axes, panel, groups, axis)
        style.legend(drawn, handles, texts)
        return style.svg(drawn)


def main_panels(groups: Sequence[Group]) -> list[Panel]:
    """Return the panels of the metrics to look at first, those that the runs have."""
    runs = [run for group in groups for run in group.runs]
    tags = {tag for run in runs for tag in run.tags}
    found = [panel for panel in PANELS if panel.tag in tags]
    if "return/mean" in tags and all(_equal(run, "return/mean", "fitness/mean") for run in runs):
        found = [panel for panel in found if panel.tag != "return/mean"]
        found = [replace(p, text="return of members, their fitness") if p.tag == "fitness/mean" else p for p in found]
    if not any((run.values("members/failed") > 0).any() for run in runs):
        found = [panel for panel in found if panel.tag != "members/failed"]
    if all("tokens" in run.tags for run in runs):  # no episodes, but completions
        found = [replace(panel, text=panel.text.replace("episode", "completion")) for panel in found]
    return found


def other_panels(groups: Sequence[Group]) -> list[Panel]:
    """Return a panel for each metric that the main ones do not show, in the order of the records."""
    shown = {tag for panel in main_panels(groups) for tag in (panel.tag, panel.spread if _single(groups) else "")}
    tags = dict.fromkeys(tag for group in groups for run in group.runs for tag in run.tags)
    aside = {tag for tag in tags if tag in ON_AN_AXIS or tag.startswith(LEVELS)}
    return [Panel(tag, "") for tag in tags if tag not in shown | aside]  # their captions name them


def draw(axes: Any, panel: Panel, groups: Sequence[Group], axis: str) -> None:
    """Draw one metric of all groups into a panel."""
    for i, group in enumerate(groups):
        curves = [(run, *run.curve(panel.tag, axis)) for run in group.runs]
        curves = [(run, x, y) for run, x, y in curves if len(x)]
        over = band([(x, y) for _, x, y in curves])
        if _single(groups) and panel.spread:
            for run, _, _ in curves:
                _fill(axes, style.line_style(i)["color"], _deviation(run, panel, axis))
        for _, x, y in curves:
            _line(axes, x, y, style.line_style(i), faint=over is not None)
        if over is not None:
            _fill(axes, style.line_style(i)["color"], over)
            axes.plot(over.x, over.median, zorder=3, **style.line_style(i))
    for i, (name, value) in enumerate(_levels(panel, groups).items()):
        axes.axhline(value, color=style.INK, ls=":", lw=1)
        place = 1 - 0.2 * (i % 5)  # side by side: two constants may be close to one another
        axes.text(place, value, name, transform=axes.get_yaxis_transform(), ha="right", va="bottom", fontsize=8)
    most = max(float(np.nanmax(run.axis(axis))) for group in groups for run in group.runs)
    axes.set_xlim(0, 1.02 * most if most > 0 else 1)
    scale, unit = (1e6, ", millions") if axis in STEPS and most >= 1e6 else (1.0, "")
    axes.set_title(panel.text, loc="left", fontsize=10)
    axes.set_xlabel(axis_text(axis) + unit)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / scale:,.6g}")
    axes.yaxis.set_major_formatter(style.NUMBER)
    axes.xaxis.get_major_locator().set_params(nbins=5)


def explained(groups: Sequence[Group]) -> str:
    """Say what lines and bands are."""
    most = max(len(group.runs) for group in groups)
    if most == 1:
        return "Bands: one standard deviation, of the episodes of an evaluation or of the members."
    said = "Thick lines: median over seeds, as far as all have come. Thin lines: each seed."
    said += " Bands: from the lowest to the highest seed"
    return f"{said}, of {MANY} seeds and more the middle half." if most >= MANY else f"{said}."


def legend(groups: Sequence[Group]) -> tuple[list[Any], list[str]]:
    """Return the handles and texts of a legend; none for one group without a name."""
    from matplotlib.lines import Line2D

    if len(groups) == 1 and not groups[0].label:
        return [], []
    handles = [Line2D([], [], **style.line_style(i)) for i in range(len(groups))][:NAMED]
    # matplotlib leaves out what begins with an underscore.
    texts = [f" {text}" if (text := label(group)).startswith("_") else text for group in groups][:NAMED]
    if len(groups) > NAMED:
        return [*handles, _nothing()], [*texts, f"and {len(groups) - NAMED} more"]
    return handles, texts


def label(group: Group) -> str:
    """Return the name of a group, with the number of its runs if there are several."""
    count = len(group.runs)
    return group.label + (f", n = {count}" if count > 1 and group.label else f"n = {count}" if count > 1 else "")


def _nothing() -> Any:
    """Return a handle that is not seen, for a line of text in a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], ls="none")


def _single(groups: Sequence[Group]) -> bool:
    """Tell whether no group has several runs: bands are standard deviations then, not seeds."""
    return all(len(group.runs) == 1 for group in groups)


def _line(axes: Any, x: Array, y: Array, look: Mapping[str, Any], *, faint: bool) -> None:
    """Draw a curve; one beside a median is thin."""
    marker = "." if len(x) <= FEW and not faint else ""
    changes = {"lw": 0.8, "alpha": 0.4} if faint else {}
    axes.plot(x, y, marker=marker, ms=6 if len(x) > 1 else 9, **{**look, **changes})


def _fill(axes: Any, color: str, area: Band) -> None:
    axes.fill_between(area.x, area.low, area.high, color=color, alpha=0.18, lw=0)
    if len(area.x) == 1:  # an area without a width
        axes.vlines(area.x, area.low, area.high, color=color, alpha=0.4, lw=4)


def _deviation(run: RunRecords, panel: Panel, axis: str) -> Band:
    """Return a metric of a run with its standard deviation on both sides."""
    x, y, spread = run.axis(axis), run.values(panel.tag), run.values(panel.spread)
    known = np.isfinite(x) & np.isfinite(y) & np.isfinite(spread)
    x, y, spread = x[known], y[known], spread[known]
    return Band(x, y, y - spread, y + spread)


def _levels(panel: Panel, groups: Sequence[Group]) -> dict[str, float]:
    """Return the constants that belong into a panel: median over runs, by name."""
    if not panel.levels:
        return {}
    runs = [run for group in groups for run in group.runs]
    tags = dict.fromkeys(tag for run in runs for tag in run.tags if tag.startswith(LEVELS))
    known = {tag: [v for run in runs if np.isfinite(v := run.last(tag))] for tag in tags}
    return {short(printable(tag.removeprefix(LEVELS))): float(np.median(v)) for tag, v in known.items()}


def _equal(run: RunRecords, one: str, other: str) -> bool:
    return np.array_equal(run.values(one), run.values(other), equal_nan=True)


def _sources(label: str, source: Source | Sequence[Source]) -> list[RunRecords]:
    """Return the runs that one entry of `curves` holds. Raises `ConfigError`, `CheckpointError`."""
    if isinstance(source, RunRecords):
        return [source]
    if isinstance(source, (str, Path)):
        return [read(Path(source))]
    if not source:
        raise ConfigError(f"curves{f' of {label}' if label else ''}: there are none. Give at least one record.")
    if not isinstance(source[0], Mapping):
        return [run for one in source for run in _sources(label, one)]  # type: ignore[arg-type]
    records: list[Record] = [{"generation": i + 1, **record} for i, record in enumerate(source)]  # type: ignore[dict-item]
    return [RunRecords(label or "the run", in_order(records))]


@contextmanager
def plainly() -> Iterator[None]:
    """Draw texts of others as they stand: neither as formulas, nor with a warning for each unknown character."""
    from matplotlib import rc_context

    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        yield

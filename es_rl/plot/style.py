"""The look of all figures: colours, dashes, fonts, legends, and files as SVG and PNG.

Figures are deterministic: the same numbers give the same bytes. The text of an SVG stays text. Its background and text
colours follow the reader's dark or light scheme.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# Distinct also for readers who confuse red and green, or blue and yellow; contrast at least 3:1 on both backgrounds.
COLORS = ("#5d8dfa", "#b04623", "#b88c03", "#0fa762", "#b915a7", "#7838ff", "#6c6c6c")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.5, 1.5)),
    (0, (6, 1.5, 1.5, 1.5)),
    (0, (3, 1)),
    (0, (6, 1.5, 1.5, 1.5, 1.5, 1.5)),
    (0, (1, 3)),
)
PAPER, INK = "#ffffff", "#333333"
DARK_PAPER, DARK_INK = "#17191e", "#d5d8de"
WIDTH = 1.8  # of a line, points
SIZE = (5.0, 3.9)  # width and height of a figure, inches
DPI = 150  # of a PNG
LONG = 28  # labels of more characters stand below one another in a legend
NUMBER = "{x:,.6g}"  # format of the numbers on an axis
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


def line_style(index: int) -> dict[str, Any]:
    """Return colour, dashes and width of the line of the thing with this index. Of the first 49, no two are equal."""
    turn, color = divmod(index, len(COLORS))
    return {"color": COLORS[color], "ls": DASHES[(color + turn) % len(DASHES)], "lw": WIDTH}


@contextmanager
def canvas(height: float = SIZE[1]) -> Iterator[tuple[Any, Any]]:
    """Yield a figure and its axes; the style applies inside the block."""
    with sheet(SIZE[0], height) as figure:
        axes = figure.add_subplot()
        plain(axes)
        yield figure, axes


@contextmanager
def sheet(width: float, height: float) -> Iterator[Any]:
    """Yield an empty figure of this size in inches; the style applies inside the block."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # pyplot would look for a window system

    with rc_context(RC):
        yield Figure(figsize=(width, height), layout="constrained")


def plain(axes: Any) -> None:
    """Leave two of the four spines of the axes, and a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2)


def finish(figure: Any, axes: Any, caption: str) -> Drawing:
    """Add the legend and render the figure. Call it inside the `canvas` block."""
    legend(figure, *axes.get_legend_handles_labels())
    return Drawing(svg(figure), png(figure), caption)


def legend(figure: Any, handles: Sequence[Any], names: Sequence[str]) -> None:
    """Put a legend below the axes, if there is anything to tell apart."""
    if names:
        columns = 1 if max(map(len, names)) > LONG else 2
        figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=9, handlelength=3)


def svg(figure: Any) -> str:
    """Render a figure as SVG that follows the reader's dark or light scheme."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    head, mark, rest = text.getvalue().partition(" <defs>")
    return head + DARK + "\n" + mark + rest


def png(figure: Any) -> bytes:
    """Render a figure as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI, metadata={"Software": None})
    return content.getvalue()


def files(drawings: Mapping[str, Drawing]) -> dict[str, bytes]:
    """Return the content of each figure's files, by file name."""
    vector = {f"{name}.svg": drawing.svg.encode() for name, drawing in drawings.items()}
    return vector | {f"{name}.png": drawing.png for name, drawing in drawings.items()}

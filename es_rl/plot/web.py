"""The parts of a self-contained HTML page: style, tables that become cards on a phone, embedded files."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence

from es_rl.plot.style import Drawing

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --quiet: #555; --bad: #b3261e }
@media (prefers-color-scheme: dark) { :root { --quiet: #a9adb6; --bad: #ff8a80 } }
* { box-sizing: border-box }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem;
       background: light-dark(#fff, #17191e); color: light-dark(#1d1f23, #d5d8de); overflow-wrap: break-word }
h1 { font-size: 1.7rem; margin-bottom: .2rem } h2 { font-size: 1.2rem; margin-top: 2.4rem }
.headline { font-size: 1.15rem; line-height: 1.45; border-left: 4px solid var(--line); padding-left: .8rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums }
th, td { padding: .4rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top }
thead th { vertical-align: bottom } th { font-weight: 600 }
tr > :first-child { text-align: left } tr.ours { background: var(--soft) } td.best { font-weight: 700 }
.figures, .videos { display: flex; flex-wrap: wrap; gap: 1rem; margin-top: 1rem } figure { margin: 0 }
.figures figure { flex: 1 1 26rem; max-width: 33rem; min-width: 0 } .figures img { width: 100%; height: auto }
.videos figure { flex: 1 1 15rem; max-width: 31rem } video { width: 100% }
figcaption, .quiet { color: var(--quiet); font-size: .88rem } .quiet { font-weight: 400 }
code, pre { font-size: .82rem } pre { overflow-x: auto; padding: .6rem; background: var(--soft) }
.interval { white-space: nowrap } .bad { color: var(--bad); font-weight: 600 }
.swatch { display: inline-block; width: .75em; height: .75em; border-radius: 2px; margin-right: .45em }
@media (max-width: 700px) {
  body { margin: 1rem auto } h1 { font-size: 1.4rem }
  table.cards thead { display: none }
  table.cards, table.cards tbody, table.cards tr, table.cards td { display: block; width: 100% }
  table.cards tr { border: 1px solid var(--line); border-radius: 6px; margin-bottom: .8rem; padding: .3rem 0 }
  table.cards td { border: 0; padding: .15rem .7rem; display: flex; justify-content: space-between; gap: 1rem }
  table.cards td::before { content: attr(data-label); color: var(--quiet); font-weight: 400; text-align: left }
  table.cards td:first-child { display: block; font-weight: 600 } table.cards td:first-child::before { content: none }
}
"""


def page(title: str, body: str) -> str:
    """Return a whole HTML page."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}</style></head><body>
{body}
</body></html>
"""


def table(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], *, cards: bool = True) -> str:
    """Return a table of rows (class, HTML cells). On a phone each row becomes a card; without `cards` it scrolls."""
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    lines = []
    for kind, cells in rows:
        pairs = zip(heads, cells, strict=True)
        columns = "".join(f'<td data-label="{escape(head)}">{cell}</td>' for head, cell in pairs)
        lines.append(f'<tr class="{kind}">{columns}</tr>' if kind else f"<tr>{columns}</tr>")
    kind = ' class="cards"' if cards else ""
    inner = f"<table{kind}><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="wide">{inner}</div>'


def figures(drawings: Mapping[str, Drawing]) -> str:
    """Return figures with their captions, side by side if there is room."""
    return f'<div class="figures">{"".join(_figure(drawing) for drawing in drawings.values())}</div>'


def _figure(drawing: Drawing) -> str:
    caption = escape(drawing.caption)
    source = data("image/svg+xml", drawing.svg.encode())
    return f'<figure><img alt="{caption}" src="{source}"><figcaption>{caption}</figcaption></figure>'


def swatch(color: str) -> str:
    """Return a small square of a colour."""
    return f'<span class="swatch" style="background:{color}"></span>'


def between(value: str, low: str, high: str) -> str:
    """Return a value with its interval, on one line."""
    return f'<span class="interval">{value} [{low}, {high}]</span>'


def data(kind: str, content: bytes) -> str:
    """Return a file as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def escape(text: object) -> str:
    """Escape a text for HTML."""
    return html.escape(str(text))

"""Console output of a run: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from es_rl.run.terms import RunTerms, StopRules

Record = Mapping[str, Any]
PLAIN_SECONDS = 5.0  # a plain line at most this often; evaluations always get one


@dataclass(frozen=True)
class Goal:
    """The nearest stop rule: its text, the share done in [0, 1], and the seconds left, if known."""

    text: str
    share: float
    seconds_left: float | None


def goal(
    rules: StopRules, terms: RunTerms, *, generation: int, steps: int, seconds: float, last_score: float | None
) -> Goal:
    """Return the stop rule that is expected to be met first; a target only if there is no other rule."""
    goals = []
    for name, limit, done in (
        ("generations", rules.generations, generation),
        (terms.steps, rules.steps, steps),
        ("minutes", rules.minutes, seconds / 60),
    ):
        if limit is not None:
            share = min(1.0, done / limit)
            left = seconds * (1 - share) / share if share > 0 and seconds > 0 else None
            goals.append(Goal(f"{name}={limit:,g}" if limit < 1e15 else f"{name}={limit}", share, left))
    if goals:
        return min(goals, key=lambda g: math.inf if g.seconds_left is None else g.seconds_left)
    assert rules.target is not None  # every run has a stop rule
    return Goal(f"{terms.target}={rules.target:g}", float(terms.reached(last_score, rules.target)), None)


def _can_be_drawn_over(console: Console) -> bool:
    """Tell whether a live panel can be shown: on a terminal that is not dumb, or in a notebook that has widgets."""
    if console.is_jupyter:
        return find_spec("ipywidgets") is not None
    return console.is_terminal and not console.is_dumb_terminal


def _nobody_reads() -> None:
    """Let the program end as with any broken pipe; rich would end it with code 1."""
    raise BrokenPipeError


class Screen:
    """A live panel on a terminal, plain lines elsewhere."""

    def __init__(self, title: str, rules: StopRules, terms: RunTerms, *, quiet: bool = False) -> None:
        self._terms, self._quiet = terms, quiet
        self._console = Console(highlight=False, soft_wrap=True)
        self._console.on_broken_pipe = _nobody_reads  # type: ignore[method-assign]
        self._title, self._rules = title, rules
        self._status = "starting"
        self._record: dict[str, Any] = {}
        self._steps_in_generation = 0
        self._last_line = -math.inf
        self._live: Live | None = None
        if not quiet and _can_be_drawn_over(self._console):
            self._live = Live(get_renderable=self._panel, console=self._console, refresh_per_second=4)
            self._live.start()
        else:
            self.say(title)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if self._quiet and not text.startswith("warning"):
            return
        try:
            self._console.print(Text(text))
        except BrokenPipeError:
            raise  # nobody reads any more: the program ends
        except OSError:
            self._console.quiet = True  # a full disk, for example: a training does not end because nobody hears of it

    def status(self, text: str) -> None:
        """Show what is being done now."""
        self._status = text

    def steps(self, count: int) -> None:
        """Add steps to the count of the generation in progress."""
        self._steps_in_generation += count

    def restart(self, text: str) -> None:
        """Begin a generation: reset its steps and show a status."""
        self._steps_in_generation = 0
        self._status = text

    def write(self, record: Record) -> None:
        evaluated = self._terms.score in record
        self._record |= record
        now = time.monotonic()
        if self._live is None and (evaluated or now - self._last_line > PLAIN_SECONDS):
            self._last_line = now
            self.say(_line(record, self._goal(), self._terms))
        for tag, value in record.items():
            if isinstance(value, str):
                self.say(f"{tag}: {value!r}")

    def close(self) -> None:
        if self._live is not None:
            with contextlib.suppress(OSError):  # the terminal is gone
                self._live.stop()
            self._live = None

    def _goal(self) -> Goal:
        r = self._record
        return goal(
            self._rules,
            self._terms,
            generation=r.get("generation", 0),
            steps=r.get(self._terms.steps, 0),
            seconds=r.get("seconds", 0.0),
            last_score=r.get(self._terms.score),
        )

    def _panel(self) -> Panel:
        r, g, terms = self._record, self._goal(), self._terms
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_column()
        speed = f"{r[f'time/{terms.unit}_per_second']:,.0f} {terms.unit}/s" if r else ""
        fresh = f" + {self._steps_in_generation:,}" if self._steps_in_generation else ""
        table.add_row("generation", f"{r.get('generation', 0)}   [dim]{self._status}[/dim]")
        table.add_row(terms.steps.replace("_", " "), f"{r.get(terms.steps, 0):,}[dim]{fresh}[/dim]   {speed}")
        if r:
            table.add_row("fitness", f"{number(r['fitness/mean'])}   [dim]max[/dim] {number(r['fitness/max'])}")
        if terms.score in r:
            best = r.get(terms.best)
            at_best = f"   [dim]best[/dim] {number(best)}" if best is not None else ""
            spread = f" ± {number(r[terms.spread])}" if terms.spread in r else ""
            table.add_row("evaluation", f"[bold]{number(r[terms.score])}[/bold]{spread}{at_best}")
        if r.get("members/failed"):
            table.add_row("failed members", f"[yellow]{r['members/failed']}[/yellow]")
        left = f"{_clock(g.seconds_left)} left" if g.seconds_left is not None else ""
        table.add_row(g.text, f"{100 * g.share:.0f} %   {left}")
        bar = ProgressBar(total=1.0, completed=g.share)
        return Panel(Group(table, bar), title=self._title, title_align="left", border_style="cyan")


def _line(r: Record, g: Goal, terms: RunTerms) -> str:
    parts = [
        f"generation {r['generation']}",
        f"{r[terms.steps]:,} {terms.unit}",
        f"{r[f'time/{terms.unit}_per_second']:,.0f} {terms.unit}/s",
        f"fitness {number(r['fitness/mean'])} (max {number(r['fitness/max'])})",
    ]
    if terms.score in r:
        spread = f" ± {number(r[terms.spread])}" if terms.spread in r else ""
        parts.append(f"eval {number(r[terms.score])}{spread}")
    if r["members/failed"]:
        parts.append(f"{r['members/failed']} members failed")
    left = f", {_clock(g.seconds_left)} left" if g.seconds_left is not None else ""
    parts.append(f"{100 * g.share:.0f} % of {g.text}{left}")
    return " | ".join(parts)


def number(value: float | None, digits: int | None = None) -> str:
    """Format a number with the given digits, or as many as its size needs. Return – for None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return "–"
    needed = 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 3
    return f"{value:,.{needed if digits is None else digits}f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

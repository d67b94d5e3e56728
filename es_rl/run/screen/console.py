"""Console output of a run: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from es_rl.run.screen.goal import Goal, clock, goal, number
from es_rl.run.screen.live import WIDEST, ResizableLive
from es_rl.run.terms import RunTerms, StopRules

Record = Mapping[str, Any]
FILM_SECONDS = 10.0  # a plain line of a film's progress at most this often
PLAIN_SECONDS = 5.0  # a plain line at most this often; evaluations always get one


def _can_be_drawn_over(console: Console) -> bool:
    """Tell whether a live panel can be shown: on a terminal that is not dumb, or in a notebook that has widgets."""
    if console.is_jupyter:
        return find_spec("ipywidgets") is not None
    return console.is_terminal and not console.is_dumb_terminal


def _nobody_reads() -> None:
    """Let the program end as with any broken pipe; rich would end it with code 1."""
    raise BrokenPipeError


class Screen:
    """A live panel on a terminal, plain lines elsewhere. `shift` is subtracted from each reward in training."""

    def __init__(
        self, title: str, rules: StopRules, terms: RunTerms, *, quiet: bool = False, shift: float = 0.0
    ) -> None:
        self._terms, self._quiet = terms, quiet
        self._console = Console(highlight=False)
        self._console.on_broken_pipe = _nobody_reads  # type: ignore[method-assign]
        self._title, self._rules, self._shift = title, rules, _shifted(shift)
        self._status, self._film = "starting", ""
        self._record: dict[str, Any] = {}
        self._recorded_at: float | None = time.monotonic()  # None: training is over
        self._steps_in_generation, self._counting = 0, False  # of the generation in progress, while there is one
        self._last_line = -math.inf
        self._live: Live | None = None
        if not quiet and _can_be_drawn_over(self._console):
            self._live = ResizableLive(get_renderable=self._panel, console=self._console, refresh_per_second=4)
            self._live.start()
        else:
            self.say(title)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if self._quiet and not text.startswith("warning"):
            return
        try:
            self._console.print(Text(text), soft_wrap=True)
        except BrokenPipeError:
            raise  # nobody reads any more: the program ends
        except OSError:
            self._console.quiet = True  # a full disk, for example: a training does not end because nobody hears of it

    def status(self, text: str) -> None:
        """Show what is being done now."""
        self._status = text

    def film(self, text: str, *, alone: bool = False) -> None:
        """Show how far a film is, "" if none is made. Without a panel, only now and then if nothing else is done."""
        self._film = text
        if alone and text and self._live is None and time.monotonic() - self._last_line > FILM_SECONDS:
            self._last_line = time.monotonic()
            self.say(text)

    def steps(self, count: int) -> None:
        """Add steps to the count of the generation in progress. Those of evaluations do not count."""
        if self._counting:
            self._steps_in_generation += count

    def restart(self, text: str) -> None:
        """Begin a generation: reset its steps and show a status."""
        self._steps_in_generation, self._counting = 0, True
        self._status = text

    def evaluating(self) -> None:
        """Show that an evaluation has begun. Its steps do not count."""
        self._counting = False
        self.status("evaluating")

    def resume(self, generation: int, steps: int, seconds: float) -> None:
        """Show how far the run was before this sitting."""
        self._record |= {"generation": generation, self._terms.steps: steps, "seconds": seconds}
        self._recorded_at = time.monotonic()

    def over(self, text: str) -> None:
        """Stop the clock: training is over. Say why."""
        self._recorded_at, self._steps_in_generation, self._status = None, 0, "finishing"
        self._last_line = time.monotonic()
        self.say(f"finished: {text}.")

    def write(self, record: Record) -> None:
        evaluated = self._terms.score in record
        self._record |= record
        self._steps_in_generation, self._counting = 0, False
        now = self._recorded_at = time.monotonic()
        if self._live is None and (evaluated or now - self._last_line > PLAIN_SECONDS):
            if record["generation"]:  # the line of the untrained policy does not put off that of the first generation
                self._last_line = now
            self.say(_line(record, self._goal(), self._terms, self._shift))
        for tag, value in record.items():
            if isinstance(value, str):
                self.say(f"{tag}: {value!r}")

    def close(self) -> None:
        """Leave the panel as it is: what is said from now on stands below it."""
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

    def _elapsed(self) -> float:
        """Return the seconds of training so far, over all sittings."""
        since = 0.0 if self._recorded_at is None else time.monotonic() - self._recorded_at
        seconds: float = self._record.get("seconds", 0.0) + since
        return seconds

    def _panel(self) -> Panel:
        r, g, terms = self._record, self._goal(), self._terms
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True, min_width=10)
        table.add_column(no_wrap=True)
        rate = f"time/{terms.unit}_per_second"
        speed = f"{r[rate]:,.0f} {terms.unit}/s" if rate in r else ""
        fresh = f" + {self._steps_in_generation:,}" if self._steps_in_generation else ""
        table.add_row("generation", f"{r.get('generation', 0)}   [dim]{self._status}[/dim]")
        table.add_row(terms.steps.replace("_", " "), f"{r.get(terms.steps, 0):,}[dim]{fresh}[/dim]   {speed}")
        if "fitness/mean" in r:
            shown = f"{number(r['fitness/mean'])}[dim]{self._shift}   max[/dim] {number(r['fitness/max'])}"
            table.add_row("fitness", shown)
        if terms.score in r:
            best = r.get(terms.best)
            at_best = f"   [dim]best[/dim] {number(best)}" if best is not None else ""
            table.add_row("evaluation", f"[bold]{number(r[terms.score])}[/bold]{_spread(r, terms)}{at_best}")
        if r.get("members/failed"):
            table.add_row("failed members", f"[yellow]{r['members/failed']}[/yellow]")
        if "cluster/nodes" in r:
            table.add_row("cluster", _cluster(r))
        if self._film:
            table.add_row("film", self._film)
        left = f", {clock(g.seconds_left)} left" if g.seconds_left is not None and g.share < 1 else ""
        table.add_row("time", f"{clock(self._elapsed())}{left}")
        table.add_row(g.text, f"{100 * g.share:.0f} %")
        bar = ProgressBar(total=1.0, completed=g.share)
        width = min(WIDEST, self._console.width)
        return Panel(Group(table, bar), title=self._title, title_align="left", border_style="cyan", width=width)


def _cluster(r: Record) -> str:
    """Return the state of the cluster in the last generation."""
    sent, received = (r[f"cluster/bytes_{way}"] / 1e6 for way in ("out", "in"))
    lost = f"   [yellow]{r['cluster/lost']} lost[/yellow]" if r["cluster/lost"] else ""
    traffic = f"[dim]{number(sent)} MB out, {number(received)} MB in[/dim]"
    busy = f"{100 * r['cluster/utilisation']:.0f} % busy"
    return f"{r['cluster/actors']} workers on {r['cluster/nodes']} machines, {busy}   {traffic}{lost}"


def _line(r: Record, g: Goal, terms: RunTerms, shift: str) -> str:
    parts = [f"generation {r['generation']}"]
    if "fitness/mean" in r:
        parts += [
            f"{r[terms.steps]:,} {terms.unit}",
            f"{r[f'time/{terms.unit}_per_second']:,.0f} {terms.unit}/s",
            f"fitness {number(r['fitness/mean'])}{shift} (max {number(r['fitness/max'])})",
        ]
    if terms.score in r:
        parts.append(f"eval {number(r[terms.score])}{_spread(r, terms)}")
    if r.get("members/failed"):
        parts.append(f"{r['members/failed']} members failed")
    left = f", {clock(g.seconds_left)} left" if g.seconds_left is not None else ""
    parts.append(f"{100 * g.share:.0f} % of {g.text}{left}" if r["generation"] else "before training")
    return " | ".join(parts)


def _spread(r: Record, terms: RunTerms) -> str:
    return f" ± {number(r[terms.spread])}" if terms.spread in r else ""


def _shifted(shift: float) -> str:
    """Return what is told beside the fitness if it is not the return: a shift of the reward of each step."""
    return f" (return {'−' if shift > 0 else '+'} {abs(shift):g} a step)" if shift else ""

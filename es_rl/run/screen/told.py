"""What a run tells at its start and at its end."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

from es_rl.arguments.origins import Origins
from es_rl.config import as_text, leaves
from es_rl.run import checkpoint
from es_rl.run.checkpoint import Progress
from es_rl.run.screen.goal import number
from es_rl.run.task import Run

BEST = " checkpoint=best"  # in commands; left out if the last checkpoint is the best one, or the only one
WIDE = 24  # characters of a value that the others are aligned with, at most


def settings(config: Any, origins: Origins, *, without: Collection[str] = ()) -> list[str]:
    """Return a line for each given key that does not have its declared default: its name, value and origin, aligned.

    Keys in `without` are left out, and so are values that nobody gave: those that follow from other keys.
    """
    plain = type(config)()
    rows = []
    for name, _ in leaves(type(config)):
        value, origin = attrgetter(name)(config), origins.get(name)
        if origin and name not in without and value != attrgetter(name)(plain):
            rows.append((name, as_text(value), origin))
    names, values = (max((len(row[i]) for row in rows if len(row[i]) <= WIDE), default=0) for i in (0, 1))
    return [f"  {name:<{names}}  {value:<{values}}  {origin}" for name, value, origin in rows]


def ending(r: Run, progress: Progress, made: Mapping[str, Path], reason: str) -> list[str]:
    """Return the last lines of a run: its scores with their checkpoints, what was made, and commands to go on with."""
    lines, folder = [], r.path / "checkpoints"
    files = {name: folder / place for name, place in checkpoint.named(folder).items()}
    for name, score in (("last", progress.last_score), ("best", progress.best_score)):
        if score is not None and name in files:
            lines.append((name, f"{r.terms.score} {number(score)}: {files[name]}"))
    apart = files.get("best", files.get("last")) != files.get("last")
    if len(lines) == 2 and not apart:
        lines = [("last and best", lines[0][1])]
    lines += [(name, str(path)) for name, path in made.items()]
    more = r.stop_rules.raised(r.terms, reason)
    commands = [*r.commands[:-1], *(f"{command} {more}".rstrip() for command in r.commands[-1:])]
    commands = commands if apart else [command.replace(BEST, "") for command in commands]
    lines += [("next" if i == 0 else "", command) for i, command in enumerate(commands)]
    width = max((len(name) for name, _ in lines), default=0)
    return [f"{name:<{width}}  {text}" for name, text in lines]

"""The keys of the verb that draws curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from es_rl.arguments import APART
from es_rl.config import leaves, pairs, parse
from es_rl.errors import ConfigError
from es_rl.keys import key
from es_rl.plot.curves import AUTO, AXES
from es_rl.run.directory import check_file

PNG, HTML = ".png", ".html"


@dataclass(frozen=True)
class PlotConfig:
    run: list[str] = key(
        [], "run directories, or folders of runs, with commas between; last: the newest run under runs", bare="run"
    )
    out: str = key(
        "", "PNG to write, with the page beside it; default: RUN/plot.png, or plot.png for several", path=True,
        bare="output",
    )  # fmt: skip
    x: str = key(AUTO, "axis; steps: environment steps or tokens, what the runs count", choices=AXES)


def parse_plot(argv: Sequence[str]) -> PlotConfig:
    """Return the keys. Bare words are runs, such as what a shell makes of a pattern.

    Raises `ConfigError`.
    """
    names = [name for name, _ in leaves(PlotConfig)]
    odd = [a for a in argv if "=" in a and a.partition("=")[0] not in names and exists(a)]  # runs with = in the name
    given = pairs([a for a in argv if a not in odd], PlotConfig)
    named = given.pop("run", "").split(APART)
    config = parse(PlotConfig, [f"{name}={value}" for name, value in given.items()])
    runs = [*(run for text in named for run in _split(text)), *odd]
    if not runs:
        raise ConfigError("run is missing: give a run directory, such as run=runs/cheetah, or several.")
    return replace(config, run=runs, out=_checked(config.out))


def exists(path: str | Path) -> bool:
    """Tell whether there is such a path; none is too long for the question."""
    try:
        return Path(path).exists()
    except OSError:
        return False


def _split(text: str) -> list[str]:
    """Return the runs of a list; a directory with commas in its name is one."""
    if text and exists(text):
        return [text]
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    return [part.strip() for part in bare.split(",") if part.strip()]


def _checked(text: str) -> str:
    """Return the file to write. Raises `ConfigError` if it or the one beside it cannot be written."""
    out = Path(text)
    if text and out.suffix.lower() not in (PNG, HTML):
        raise ConfigError(f"out={out}: must end in .png or .html; both are written.")
    for path in (out.with_suffix(PNG), out.with_suffix(HTML)) if text else ():
        check_file(path, "out")
    return text

"""Write the picture and the page of runs."""

from __future__ import annotations

from pathlib import Path

from es_rl.plot import runs, style
from es_rl.plot.config import HTML, PNG, PlotConfig
from es_rl.plot.curves import RunRecords
from es_rl.plot.page import page
from es_rl.plot.panels import overview, plainly
from es_rl.run import atomic
from es_rl.run.directory import check_inside, reporting


def write(config: PlotConfig) -> str:
    """Draw runs and write both files. Return what was done. Raises `ConfigError` and errors of reading and writing."""
    found, left_out = runs.gather(config.run)
    groups = runs.grouped(found)
    out = Path(config.out) if config.out else _default(found)
    with plainly():
        picture = style.png(overview(groups, config.x, runs.subject(found)))
    contents = {out.with_suffix(PNG): picture, out.with_suffix(HTML): page(groups, config.x).encode()}
    for path, content in contents.items():
        _replace(path, content)
    count = f"{len(found)} run{'s' * (len(found) > 1)}, {len(groups)} group{'s' * (len(groups) > 1)}"
    return "\n".join([*(f"left out: {why}" for why in left_out), f"{count}: {' and '.join(map(str, contents))}"])


def _default(found: list[RunRecords]) -> Path:
    """Return the file in the directory of one run, or in the current one for several. Raises `CheckpointError`."""
    folder = found[0].path
    if len(found) > 1 or folder is None:
        return Path("plot.png")
    check_inside(folder)
    return folder / "plot.png"


def _replace(path: Path, content: bytes) -> None:
    """Write a file that appears complete or not at all. Raises `ResourceError`."""
    with reporting(path, "Choose another place with out=FILE.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.replace_file(path, content)

"""Save a model as a run directory, put it in its place, and read one."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from es_rl.config import to_yaml
from es_rl.errors import CheckpointError, ConfigError
from es_rl.es.strategy import ESState
from es_rl.rl.config import Config
from es_rl.run import COMMAND, CONFIG, METRICS, VERSIONS, atomic, checkpoint, directory
from es_rl.run.checkpoint import INDEX, NAMED, Checkpoint, Progress, ages
from es_rl.run.json_lines import read
from es_rl.run.log import plain

SAVED = {CONFIG, COMMAND, VERSIONS, "checkpoints", METRICS}  # what `save` writes


def save(
    path: Path,
    config: Config,
    state: ESState,
    progress: Progress,
    *,
    about: Mapping[str, Any],
    history: Iterable[Mapping[str, Any]],
    command: str,
) -> None:
    """Write a run directory with one checkpoint into an empty directory. Raises `ResourceError`."""
    with directory.reporting(path, "Give another path"):
        checkpoint.save(path, state, progress, about=about, config=to_yaml(config), keep=1, best=False)
        lines = [json.dumps({name: plain(value) for name, value in record.items()}) + "\n" for record in history]
        (path / METRICS).write_text("".join(lines), encoding="utf-8")
    directory.describe(path, config, command)


@contextlib.contextmanager
def temporary(beside: Path | None = None) -> Iterator[Path]:
    """Yield an empty directory, in a directory `beside` if it is to be moved there, and delete it at the end."""
    with contextlib.ExitStack() as stack:
        with directory.reporting(beside or Path(), "Give another path"):
            if beside is not None:
                beside.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=".es_rl-", dir=beside))
            run = Path(folder) / "run"
            run.mkdir()
        yield run


def put(made: Path, path: Path) -> None:
    """Move a directory to its place, where an earlier save may be. Raises `ConfigError` if anything else is there."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        made.rename(path)
        return
    if not _is_saved(path):
        raise ConfigError(f"{path}: holds something else than a saved model. Give another path.")
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as aside:
        path.rename(Path(aside) / path.name)
        try:
            made.rename(path)
        except OSError:
            (Path(aside) / path.name).rename(path)
            raise


def _is_saved(path: Path) -> bool:
    """Tell whether a directory holds just what `save` writes: a run has more files, and several checkpoints."""
    if not path.is_dir() or {entry.name for entry in path.iterdir()} != SAVED:
        return False
    inside = {entry.name for entry in (path / "checkpoints").iterdir()}
    return len(inside - {INDEX, *NAMED}) == 1 == len(ages(path))


def restored(path: Path, fresh: ESState, config: Config, about: Mapping[str, Any]) -> tuple[Checkpoint, ESState]:
    """Return the newest checkpoint and its state. Raises `CheckpointError` if it does not fit the environment."""
    loaded = checkpoint.load_newest(path, lambda text: None)
    if loaded.about != dict(about):
        raise CheckpointError(f"{path}: was trained in other spaces than those of the environment.")
    return loaded, loaded.state(fresh, config.optim)


def history(path: Path, generation: int) -> list[dict[str, Any]]:
    """Return the records of a run up to a generation."""
    if not (path / METRICS).exists():
        return []
    with atomic.reading(path):
        return [row for row in read(path / METRICS) if row.get("generation", generation + 1) <= generation]


def is_at(run: Path | None, generation: int) -> bool:
    """Tell whether a run is there, and its newest checkpoint is that of this generation."""
    return run is not None and (run / CONFIG).is_file() and max(ages(run), default=None) == generation

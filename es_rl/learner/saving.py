"""Save a model as a run directory, and read one."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from es_rl.config import to_yaml
from es_rl.errors import CheckpointError, ConfigError
from es_rl.es.strategy import ESState
from es_rl.rl.config import Config
from es_rl.run import atomic, checkpoint, directory
from es_rl.run.checkpoint import Checkpoint, Progress
from es_rl.run.json_lines import read
from es_rl.run.log import plain

METRICS = "metrics.jsonl"


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
    """Write a run directory with one checkpoint, in a new directory. Raises `ResourceError`."""
    with directory.reporting(path, "Give another path"):
        path.mkdir(parents=True)
        checkpoint.save(path, state, progress, about=about, config=to_yaml(config), keep=1, best=False)
        lines = [json.dumps({name: plain(value) for name, value in record.items()}) + "\n" for record in history]
        (path / METRICS).write_text("".join(lines), encoding="utf-8")
    directory.describe(path, config, command)


def put(made: Path, path: Path, *, overwrite: bool) -> None:
    """Move a directory to its place. An earlier one there is replaced, if it is to be. Raises `ConfigError`."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        if not (path / "config.yaml").is_file():
            raise ConfigError(f"{path}: exists, and is not a saved model. Give another path.")
        if not overwrite:
            raise ConfigError(f"{path}: holds a saved model or a run. Give another path, or overwrite=True.")
        old = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        path.rename(old / path.name)
        made.rename(path)
        shutil.rmtree(old)
        return
    made.rename(path)


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

"""Callbacks of `es_rl.Trainer` and `es_rl.ES`.

They are called with (trainer, record) after each generation; returning True ends the training.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from es_rl.errors import lookup

if TYPE_CHECKING:
    from es_rl.trainer.trainer import Record, Trainer


class EarlyStopping:
    """Stop when a metric has not risen by more than `least` for `patience` generations, or reaches `target`.

    It reads the trainer's history, so a trainer that was saved and loaded stops at the same generation.
    """

    def __init__(
        self, patience: int, *, metric: str = "fitness/mean", least: float = 0.0, target: float = math.inf
    ) -> None:
        self._patience, self._metric, self._least, self._target = patience, metric, least, target

    def on_generation(self, trainer: Trainer, record: Record) -> bool:
        lookup(record, self._metric, "metric")
        told = (past[self._metric] for past in trainer.history)
        values = [-math.inf if value is None else value for value in told]
        best, waited = -math.inf, 0
        for value in values:
            best, waited = (value, 0) if value > best + self._least else (best, waited + 1)
        return waited >= self._patience or values[-1] >= self._target


class Checkpoint:
    """Save the trainer every `every` generations."""

    def __init__(self, path: str | Path, *, every: int = 1) -> None:
        self._path, self._every = path, every

    def on_generation(self, trainer: Trainer, record: Record) -> None:
        if trainer.generation % self._every == 0:
            trainer.save(self._path)


class TensorBoard:
    """Write the scalars of each record to event files, with the generation as step."""

    def __init__(self, path: str | Path) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer = SummaryWriter(str(path), flush_secs=10)

    def on_generation(self, trainer: Trainer, record: Record) -> None:
        for tag, value in record.items():
            if isinstance(value, (int, float)) and tag != "generation":
                self._writer.add_scalar(tag, value, record["generation"])
        self._writer.flush()


class Print:
    """Print a line, at most one every `seconds` seconds."""

    def __init__(self, seconds: float = 5.0) -> None:
        from rich.console import Console

        self._console: Any = Console(highlight=False, soft_wrap=True)
        self._seconds, self._last = seconds, -math.inf

    def on_generation(self, trainer: Trainer, record: Record) -> None:
        if time.monotonic() - self._last >= self._seconds:
            self._last = time.monotonic()
            line = f"generation {record['generation']} | fitness {record['fitness/mean']:.4g} "
            line += f"(max {record['fitness/max']:.4g})"
            if "time/generation" in record:
                line += f" | {record['time/generation']:.2f} s"
            self._console.print(line)

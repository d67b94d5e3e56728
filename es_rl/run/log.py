"""The log of a run: metrics.jsonl, TensorBoard and the screen."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from es_rl.run.screen import Record, Screen
from es_rl.run.terms import RunTerms

HISTOGRAM_SIZE = 1 << 22  # a parameter with more numbers than this gets no histogram


class Metrics:
    """metrics.jsonl: one JSON object a generation. On resume, lines after the checkpoint are dropped."""

    def __init__(self, path: Path, generation: int) -> None:
        if path.exists():
            keep_until(path, generation)
        self._file = path.open("a")

    def write(self, record: Record) -> None:
        self._file.write(json.dumps({k: plain(v) for k, v in record.items()}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Event files with the tags of metrics.jsonl. The axis is environment steps or tokens."""

    def __init__(self, run: Path, config_text: str, terms: RunTerms, resumed_at: int | None) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        # TensorBoard hides what was written after the checkpoint that a run resumes from.
        self._axis = terms.steps
        purge = None if resumed_at is None else resumed_at + 1
        self._writer = SummaryWriter(str(run), purge_step=purge, flush_secs=10)
        if resumed_at is None:
            self._writer.add_text("config", f"```yaml\n{config_text}```", 0)

    def write(self, record: Record) -> None:
        step = record[self._axis]
        for tag, value in record.items():
            if isinstance(value, str):
                self._writer.add_text(tag, value, step)
            elif tag != self._axis and isinstance(value, (int, float)) and math.isfinite(value):
                self._writer.add_scalar(tag, value, step)

    def histograms(self, fitness: NDArray[np.float64], theta: Mapping[str, Tensor], step: int) -> None:
        finite = fitness[np.isfinite(fitness)]
        if finite.size:
            self._writer.add_histogram("fitness", finite, step)
        for name, value in theta.items():
            if value.numel() <= HISTOGRAM_SIZE and value.isfinite().all():
                self._writer.add_histogram(f"theta/{name}", value.numpy(), step)

    def animation(self, gif: bytes, size: tuple[int, int], step: int) -> None:
        """Write a GIF as an image; TensorBoard shows it moving."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        width, height = size
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        self._writer._get_file_writer().add_summary(  # type: ignore[no-untyped-call]
            Summary(value=[Summary.Value(tag="eval/video", image=image)]), step
        )
        self.flush()

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class RunLog:
    """The screen, metrics.jsonl and TensorBoard of one run."""

    def __init__(
        self,
        run: Path,
        screen: Screen,
        config_text: str,
        terms: RunTerms,
        *,
        generation: int,
        steps: int,
        resumed: bool,
    ) -> None:
        self.screen, self._terms = screen, terms
        self._metrics = Metrics(run / "metrics.jsonl", generation)
        self._tensorboard = TensorBoard(run, config_text, terms, steps if resumed else None)

    def generation(self, record: Record, fitness: NDArray[np.float64], theta: Mapping[str, Tensor]) -> None:
        """Log a finished generation; write histograms if it was evaluated."""
        self.screen.write(record)
        self._metrics.write(record)
        self._tensorboard.write(record)
        if self._terms.score in record:
            self._tensorboard.histograms(fitness, theta, record[self._terms.steps])

    def animation(self, gif: Path, step: int) -> None:
        """Show a GIF in TensorBoard."""
        from PIL import Image

        with Image.open(gif) as image:
            size = image.size
        self._tensorboard.animation(gif.read_bytes(), size, step)

    def flush(self) -> None:
        """Write all records so far to the files, so that they survive the end of this process."""
        self._tensorboard.flush()

    def close(self) -> None:
        self._metrics.close()
        self._tensorboard.close()


def plain(value: Any) -> Any:
    """Replace NaN and infinity by None, since JSON has neither."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def keep_until(path: Path, generation: int) -> None:
    """Drop lines after the generation and cut-off lines. Replace the file atomically."""
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["generation"] <= generation:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue  # cut off by a crash
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)

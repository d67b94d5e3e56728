"""The log of a run: metrics.jsonl, TensorBoard and the screen."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from es_rl.run.json_lines import JsonLines, keep_until
from es_rl.run.screen import Record, Screen
from es_rl.run.terms import RunTerms

HISTOGRAM_LARGEST = 1e12  # TensorBoard's bins end there
HISTOGRAM_SIZE = 1 << 22  # a parameter with more numbers than this gets no histogram


class TensorBoard:
    """Event files with the tags of metrics.jsonl. The axis is environment steps or tokens.

    TensorBoard writes in a thread of its own, whose errors come out of later calls.
    """

    def __init__(self, run: Path, config_text: str, terms: RunTerms, resumed_at: int | None) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        _silence_writers()
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
        finite = fitness[np.abs(fitness) < HISTOGRAM_LARGEST]
        if finite.size:
            self._writer.add_histogram("fitness", finite, step)
        for name, value in theta.items():
            if 0 < value.numel() <= HISTOGRAM_SIZE and bool((value.abs() < HISTOGRAM_LARGEST).all()):
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


@cache
def _silence_writers() -> None:
    """Let TensorBoard's threads end without a traceback on the screen: their errors come out of the next call."""
    before = threading.excepthook

    def excepthook(args: threading.ExceptHookArgs) -> None:
        if type(args.thread).__module__ != "tensorboard.summary.writer.event_file_writer":
            before(args)

    threading.excepthook = excepthook


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
        path = run / "metrics.jsonl"
        if path.exists():
            keep_until(path, generation)
        self._metrics = JsonLines(path, screen.say)
        self._open = partial(TensorBoard, run, config_text, terms)
        self._tensorboard: TensorBoard | None = None
        self._told = False  # that TensorBoard's files cannot be written
        self._reopen(steps if resumed else None)

    def generation(self, record: Record, fitness: NDArray[np.float64], theta: Mapping[str, Tensor]) -> None:
        """Log a finished generation; write histograms if it was evaluated."""
        self.screen.write(record)
        self._metrics.append([{k: plain(v) for k, v in record.items()}])
        step, evaluated = record[self._terms.steps], self._terms.score in record
        if self._tensorboard is None and evaluated:
            self._reopen(step - 1)
        self._try(lambda board: board.write(record))
        if evaluated:
            self._try(lambda board: board.histograms(fitness, theta, step))

    def animation(self, gif: Path, step: int) -> None:
        """Show a GIF in TensorBoard."""
        from PIL import Image

        with Image.open(gif) as image:
            size = image.size
        self._try(lambda board: board.animation(gif.read_bytes(), size, step))

    def flush(self) -> None:
        """Write all records so far to the files, so that they survive the end of this process."""
        self._try(lambda board: board.flush())

    def close(self) -> None:
        self._try(lambda board: board.close())

    def _reopen(self, resumed_at: int | None) -> None:
        """Begin a new event file, at first or after the last one could not be written."""
        try:
            self._tensorboard = self._open(resumed_at)
        except OSError as error:
            self._lose(error)

    def _try(self, write: Callable[[TensorBoard], None]) -> None:
        """Write to TensorBoard's files. If they cannot be written, the run goes on without."""
        try:
            if self._tensorboard is not None:
                write(self._tensorboard)
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        self._tensorboard = None
        if not self._told:
            self._told = True
            self.screen.say(
                f"warning: TensorBoard's files cannot be written ({error.strerror or error}): points are missing "
                f"there, not in metrics.jsonl. It is tried again at the next evaluation"
            )


def plain(value: Any) -> Any:
    """Replace NaN and infinity by None, since JSON has neither."""
    return None if isinstance(value, float) and not math.isfinite(value) else value

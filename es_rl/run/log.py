"""The log of a run: metrics.jsonl, TensorBoard, trackers and the screen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from es_rl.run import METRICS
from es_rl.run.curves.about import About
from es_rl.run.curves.metrics import numbers
from es_rl.run.curves.tensorboard import TensorBoard
from es_rl.run.json_lines import JsonLines, keep_until
from es_rl.run.screen import Record, Screen
from es_rl.run.trackers.link import Trackers


class RunLog:
    """The screen, metrics.jsonl, TensorBoard and trackers of one run."""

    def __init__(self, about: About, screen: Screen, *, generation: int, steps: int, resumed: bool) -> None:
        self.screen, self._terms = screen, about.terms
        path = about.path / METRICS
        if path.exists():
            keep_until(path, generation)
        self._metrics = JsonLines(path, screen.say)
        self._open = partial(TensorBoard, about)
        self._tensorboard: TensorBoard | None = None
        self._told = False  # that TensorBoard's files cannot be written
        self._reopen(steps if resumed else None)
        self._trackers = Trackers(about, about.config.track, screen.say)

    def generation(self, record: Record, fitness: NDArray[np.float64] | None, theta: Mapping[str, Tensor]) -> None:
        """Log a finished generation, or an evaluation before the first one, which has no fitness of members.

        Write histograms if it was evaluated.
        """
        self.screen.write(record)
        self._metrics.append([{k: plain(v) for k, v in record.items()}])
        step, evaluated = record[self._terms.steps], self._terms.score in record
        if self._tensorboard is None and evaluated:
            self._reopen(step - 1)
        drawn = list(numbers(record, self._terms, None if fitness is None else len(fitness)))
        texts = {name: value for name, value in record.items() if isinstance(value, str)}
        self._try(lambda board: board.write(drawn, texts, step))
        if evaluated and fitness is not None:
            self._try(lambda board: board.histograms(fitness, theta, step))
        self._trackers.log(drawn, step)

    def film(self, mp4: Path, step: int) -> None:
        """Show a finished film: the GIF beside it in TensorBoard, and the film itself in trackers."""
        from PIL import Image

        gif = mp4.with_suffix(".gif")
        with Image.open(gif) as image:
            size = image.size
        self._try(lambda board: board.animation(gif.read_bytes(), size, step))
        self._trackers.video(mp4, step)

    def flush(self) -> None:
        """Write all records so far to the files, so that they survive the end of this process."""
        self._try(lambda board: board.flush())

    def close(self) -> None:
        """Close the files. Let trackers finish, for some seconds at most."""
        self._try(lambda board: board.close())
        if self._trackers.working:
            self.screen.status("finishing trackers")
        self._trackers.close()

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

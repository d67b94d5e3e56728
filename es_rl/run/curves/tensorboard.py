"""TensorBoard's event files of a run."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from es_rl.config import to_yaml
from es_rl.run.curves.about import About
from es_rl.run.curves.dashboards import hyperparameters, layout
from es_rl.run.curves.metrics import aliases_of, description, tag_of

HISTOGRAM_LARGEST = 1e12  # TensorBoard's bins end there
HISTOGRAM_SIZE = 1 << 22  # a parameter with more numbers than this gets no histogram


class TensorBoard:
    """Event files with the metrics of a run. The axis is environment steps or tokens.

    TensorBoard writes in a thread of its own, whose errors come out of later calls.
    """

    def __init__(self, about: About, resumed_at: int | None) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from torch.utils.tensorboard.writer import SummaryWriter

        _silence_writers()
        # TensorBoard hides what was written after the checkpoint that a run resumes from.
        self._axis, self._summary = about.terms.steps, Summary
        self._described: set[str] = set()  # tags whose meaning is in this file
        purge = None if resumed_at is None else resumed_at + 1
        self._writer = SummaryWriter(str(about.path), purge_step=purge, flush_secs=10)
        self._writer.add_text("run/config", f"```yaml\n{to_yaml(about.config)}```", resumed_at or 0)
        self._writer.add_text("run/command", f"```sh\n{about.command}\n```", resumed_at or 0)
        if resumed_at is None:
            self._writer.add_custom_scalars(layout(about.terms))
            for summary in hyperparameters(about):
                self._add(summary, 0)

    def write(self, numbers: Iterable[tuple[str, float]], texts: Mapping[str, str], step: int) -> None:
        """Write the metrics of a generation, as one event: that takes a tenth of the time of one for each."""
        values = [
            self._value(tag, number, name)
            for name, number in numbers
            for tag in (tag_of(name), *aliases_of(name, self._axis))
        ]
        values += [self._value(alias, step, self._axis) for alias in aliases_of(self._axis, self._axis)]
        self._add(self._summary(value=values), step)
        for tag, text in texts.items():
            self._writer.add_text(tag, text, step)

    def _value(self, tag: str, number: float, name: str) -> Any:
        """Return a point of a curve, with the meaning of its tag if it is the first one in this file."""
        if tag in self._described:
            return self._summary.Value(tag=tag, simple_value=number)
        from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_SCALAR
        from tensorboard.plugins.scalar.metadata import create_summary_metadata

        self._described.add(tag)
        meaning = create_summary_metadata(display_name=tag, description=description(name, tag))
        meaning.data_class = DATA_CLASS_SCALAR  # without it, TensorBoard's fast reader drops the description
        return self._summary.Value(tag=tag, simple_value=number, metadata=meaning)

    def histograms(self, fitness: NDArray[np.float64], theta: Mapping[str, Tensor], step: int) -> None:
        finite = fitness[np.abs(fitness) < HISTOGRAM_LARGEST]
        if finite.size:
            self._writer.add_histogram("fitness", finite, step)
        for name, value in theta.items():
            if 0 < value.numel() <= HISTOGRAM_SIZE and bool((value.abs() < HISTOGRAM_LARGEST).all()):
                # The only parameter would be alone in its group.
                tag = f"theta/{name}" if len(theta) > 1 else f"update/theta/{name}"
                self._writer.add_histogram(tag, value.numpy(), step)

    def animation(self, gif: bytes, size: tuple[int, int], step: int) -> None:
        """Write a GIF as an image; TensorBoard shows it moving."""
        width, height = size
        image = self._summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        self._add(self._summary(value=[self._summary.Value(tag="eval/video", image=image)]), step)
        self.flush()

    def _add(self, summary: Any, step: int) -> None:
        self._writer._get_file_writer().add_summary(summary, step)  # type: ignore[no-untyped-call]

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

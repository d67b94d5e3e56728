"""Trackers: services that get the curves of a run besides TensorBoard, if the key `track` names them.

Each tracker works in a process of its own (`child`), which the run feeds without waiting for it (`link`). A library may
hang in native code or at its exit, or end the process. In a thread, this could stop a training, or keep it from ending.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from es_rl.errors import lookup, missing_extra
from es_rl.run.trackers.services import MLflow, Trackio, WandB


@dataclass(frozen=True)
class Told:
    """What a tracker is told of a run. Plain data, since it goes to another process."""

    name: str
    folder: str  # absolute path of the run
    command: str
    keys: dict[str, Any] = field(default_factory=dict)  # resolved, by dotted names


class Tracker(Protocol):
    """A service that draws curves. Whatever a method raises ends the tracker, not the run."""

    def start(self, told: Told, entry: str | None) -> tuple[str, int]:
        """Begin an entry, or go on with the one of this id. Return its id, and its last step, −1 if not known."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Add a point to each of these curves."""

    def video(self, path: str, step: int) -> None:
        """Add a film, an mp4 file."""

    def finish(self) -> None:
        """Store what was not stored yet."""


@dataclass(frozen=True)
class Service:
    """A kind of tracker, the package that it needs, and the extra of es_rl that brings it."""

    make: Callable[[], Tracker]
    package: str
    extra: str


TRACKERS = {
    "wandb": Service(WandB, "wandb", "wandb"),
    "trackio": Service(Trackio, "trackio", "trackio"),
    "mlflow": Service(MLflow, "mlflow", "mlflow"),
}


def check(names: Sequence[str]) -> None:
    """Raise `ConfigError` for an unknown tracker, `ResourceError` for one whose package is not installed."""
    for name in names:
        service = lookup(TRACKERS, name, "track")
        spec = importlib.util.find_spec(service.package)
        if spec is None or spec.origin is None:  # a folder of that name, such as wandb's own, is no package
            raise missing_extra(f"track={name}: needs the package {service.package}", service.extra, constrained=False)

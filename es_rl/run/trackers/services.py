"""Weights & Biases, Trackio and MLflow. Their packages are imported in a tracker's own process only.

Where data goes is the library's own business: its settings, its login, and its variables of the environment hold.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from es_rl.run.trackers import Told

PROJECT = "es_rl"  # of the entries, unless the library's own variable names another one
BATCH = 100  # parameters that MLflow's servers take at once


def _config(told: Told, entry: str | None) -> dict[str, Any]:
    """Return the keys, and the command that began the run: that of a resume must not replace it."""
    return told.keys if entry else {**told.keys, "command": told.command}


class WandB:
    """Weights & Biases. WANDB_MODE=offline keeps all in the run's directory, for `wandb sync`."""

    def start(self, told: Told, entry: str | None) -> tuple[str, int]:
        import wandb

        project, folder = os.environ.get("WANDB_PROJECT", PROJECT), os.environ.get("WANDB_DIR", told.folder)
        self._run: Any = wandb.init(
            project=project, name=told.name, id=entry, resume="allow", dir=folder,
            config=_config(told, entry), settings=wandb.Settings(console="off"),
        )  # fmt: skip
        return self._run.id, -1  # it knows itself which steps it has

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def video(self, path: str, step: int) -> None:
        import wandb

        # A film is ready some generations later, and steps must not go back.
        self._run.log({"eval/video": wandb.Video(path, format="mp4")}, step=max(step, self._run.step))

    def finish(self) -> None:
        self._run.finish()


class Trackio:
    """Trackio. Without TRACKIO_SPACE_ID or TRACKIO_SERVER_URL it keeps all on this machine."""

    def start(self, told: Told, entry: str | None) -> tuple[str, int]:
        import trackio

        resume = "must" if entry else "never"
        self._run: Any = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT), name=entry or told.name, config=_config(told, entry),
            resume=resume, embed=False,
        )  # fmt: skip
        return self._run.name, getattr(self._run, "_next_step", 0) - 1

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def video(self, path: str, step: int) -> None:
        import trackio

        self._run.log({"eval/video": trackio.Video(path)}, step=step)

    def finish(self) -> None:
        self._run.finish()


class MLflow:
    """MLflow: the server or folder that MLFLOW_TRACKING_URI names, or MLflow's default."""

    def start(self, told: Told, entry: str | None) -> tuple[str, int]:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # file:… is to work as long as MLflow has it
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing but the entry leaves the machine
        import mlflow

        self._mlflow: Any = mlflow
        if entry is None and not {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"} & set(os.environ):
            mlflow.set_experiment(PROJECT)
        run = mlflow.start_run(run_id=entry, run_name=told.name)
        if entry:  # its parameters cannot change
            history = mlflow.MlflowClient().get_metric_history(entry, "time/generation")
            return entry, max((metric.step for metric in history), default=-1)
        mlflow.log_text(told.command, "command.txt")
        keys = list(told.keys.items())
        for first in range(0, len(keys), BATCH):
            mlflow.log_params(dict(keys[first : first + BATCH]))
        return run.info.run_id, -1

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics(dict(numbers), step=step)

    def video(self, path: str, step: int) -> None:
        self._mlflow.log_artifact(path, "videos")

    def finish(self) -> None:
        self._mlflow.end_run()

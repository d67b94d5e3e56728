"""One trial: the same settings trained on several seeds, one after another, each in its own process."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from es_rl.errors import ConfigError, TrainingError
from es_rl.run.atomic import write_json
from es_rl.sweep.contenders import Contender, Curve
from es_rl.workers.processes import THREAD_VARIABLES, die_with_parent

RUNGS = (0.25, 0.5, 0.75)  # shares of a training's steps at which it may be stopped
LAST = 0.2  # the score is the mean of the evaluations in this last share of the steps
NICE = 10  # of the trainings
STOP_SECONDS = 20.0  # time for a stopped training to end before it is killed
REFUSED = (ConfigError.exit_code, TrainingError.exit_code)  # these settings are to blame, and not the machine
HUNG = 3600.0  # a training without an evaluation for this many seconds has failed


@dataclass(frozen=True)
class Plan:
    """The settings that all trials of a sweep share."""

    contender: Contender
    env_steps: int
    seeds: Sequence[int]
    fixed: Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: `complete`, `stopped` (hopeless, or its settings were refused) or `failed`."""

    state: str
    reason: str = ""


Hopeless = Callable[[int, float], bool]  # step and value → whether to stop the trial there


class Running:
    """A running trial. Call `poll` often. `values` are the scores of the seeds that are done."""

    def __init__(self, plan: Plan, keys: Mapping[str, str], folder: Path, hopeless: Hopeless) -> None:
        self._plan, self._keys, self._folder, self._hopeless = plan, {**plan.fixed, **keys}, folder, hopeless
        self.values: list[float] = []
        self.seconds = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._ending: Outcome | None = None
        self._deadline = self._begun = self._moved = 0.0
        self._rung, self._points = 0, 0
        self._begin()

    @property
    def value(self) -> float:
        """The score of the trial: the median of its seeds."""
        return float(np.median(self.values))

    def poll(self) -> Outcome | None:
        """Return how the trial ended, or None while it runs. Begin its next seed when one is done."""
        if self._ending is not None:
            return self._ended()
        code = self._process.poll() if self._process is not None else 0  # before the curve is read: it is complete then
        curve = self._plan.contender.curve(self._place)
        reason = self._look(curve)
        if reason:
            return self._end(Outcome("stopped", reason))
        if code is None:
            return self._wait(curve)
        if code:
            state = "stopped" if code in REFUSED else "failed"
            return self._end(Outcome(state, f"seed {self._seed}: exit code {code}: {_last_line(self._place)}"))
        if not curve:
            return self._end(Outcome("failed", f"seed {self._seed}: it ended without a single evaluation"))
        return self._finish(curve)

    def stop(self) -> None:
        """Ask the training to end, if it has not. Then `poll` until it has ended, or `kill` it."""
        if self._process is not None:
            self._deadline = time.monotonic() + STOP_SECONDS
            self._process.terminate()

    def kill(self) -> None:
        """Kill the training with all processes that it has started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    @property
    def over(self) -> bool:
        """Tell whether the current training has ended."""
        return self._process is None or self._process.poll() is not None

    @property
    def late(self) -> bool:
        """Tell whether a training that was asked to end has exceeded its time for this."""
        return not self.over and time.monotonic() > self._deadline

    @property
    def _seed(self) -> int:
        return self._plan.seeds[len(self.values)]

    @property
    def _place(self) -> Path:
        return self._folder / f"seed-{self._seed}"

    def _begin(self) -> None:
        """Start the training of the next seed, unless an earlier call has finished it."""
        place = self._place
        place.mkdir(parents=True, exist_ok=True)
        self._rung, self._points, self._begun = 0, 0, time.monotonic()
        self._moved, self._process = self._begun, None
        if (place / "done.json").exists():
            return
        try:
            self._plan.contender.check(self._keys)
        except ConfigError as error:
            self._ending = Outcome("stopped", f"refused: {error}")
            return
        self._process = start(self._plan.contender.command(self._keys, self._seed, place), place / "log.txt")

    def _look(self, curve: Curve) -> str:
        """Report each newly reached rung. Return why the trial must stop there; empty if it need not."""
        for index, value in enumerate(rungs(curve, self._plan.env_steps)):
            if index >= self._rung:
                self._rung += 1
                if not math.isfinite(value):
                    return f"seed {self._seed}: an evaluation that is not finite"
                if self._hopeless(len(self.values) * len(RUNGS) + index, value):
                    return f"{value:.4g} after {RUNGS[index]:g} of seed {self._seed}'s steps: below the median"
        return ""

    def _wait(self, curve: Curve) -> Outcome | None:
        if len(curve) != self._points:
            self._points, self._moved = len(curve), time.monotonic()
        if time.monotonic() - self._moved < HUNG:
            return None
        return self._end(Outcome("failed", f"seed {self._seed}: no evaluation for {HUNG / 60:.0f} minutes"))

    def _finish(self, curve: Curve) -> Outcome | None:
        """Record the score of a seed, and begin the next one if there is one."""
        done, value = self._place / "done.json", score(curve, self._plan.env_steps)
        if not math.isfinite(value):
            return self._end(Outcome("stopped", f"seed {self._seed}: an evaluation that is not finite"))
        if not done.exists():
            write_json(done, {"value": value, "seconds": time.monotonic() - self._begun})
        found = json.loads(done.read_text(encoding="utf-8"))
        self._process = None
        self.seconds += found["seconds"]
        self.values.append(found["value"])
        if len(self.values) == len(self._plan.seeds):
            return Outcome("complete")
        self._begin()
        return None

    def _end(self, outcome: Outcome) -> Outcome | None:
        self._ending = outcome
        self.seconds += time.monotonic() - self._begun
        self.stop()
        return self._ended()

    def _ended(self) -> Outcome | None:
        if not self.over and not self.late:
            return None
        self.kill()
        return self._ending


def score(curve: Curve, env_steps: int) -> float:
    """Return the mean of the evaluations in the last part of the steps, or the last one if there are none."""
    last = [value for steps, value in curve if steps > (1 - LAST) * env_steps]
    return float(np.mean(last or [curve[-1][1]]))


def rungs(curve: Curve, env_steps: int) -> list[float]:
    """Return the interpolated values of a curve at the rungs that it has reached."""
    if not curve:
        return []
    steps, values = zip(*curve, strict=True)
    reached = [rung * env_steps for rung in RUNGS if rung * env_steps <= steps[-1]]
    return [float(value) for value in np.interp(reached, steps, values)]


def start(arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a module on one thread, with its output in `log`. It dies with this process and receives no Ctrl-C."""

    def prepare() -> None:
        die_with_parent(parent, signal.SIGKILL)
        os.nice(NICE)

    parent, one_thread = os.getpid(), dict.fromkeys(THREAD_VARIABLES, "1")
    with log.open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env=os.environ | one_thread,
            preexec_fn=prepare,
            start_new_session=True,
        )


def _last_line(place: Path) -> str:
    """Return the last line of a training's log."""
    log = place / "log.txt"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "nothing was said"

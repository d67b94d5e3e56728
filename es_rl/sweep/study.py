"""The trials of a sweep: an Optuna study in a journal that several processes and machines may share."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import statistics
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from es_rl.errors import ConfigError
from es_rl.rng import integer_seed
from es_rl.sweep.space import Choice, Range, Space
from es_rl.workers.machine import process_stat

NAME = "sweep"
ENOUGH = 5  # complete trials needed before hopeless ones are stopped
UNCLAIMED = timedelta(seconds=10)  # after which a trial that no process has claimed was left behind
GRACE = 10  # seconds after which the lock of a dead process is removed
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
STATES = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}


class Sweep:
    """A study of the space. Trial 0 has the default settings, even if they lie outside the ranges."""

    def __init__(
        self, out: Path, space: Space, *, settings: Mapping[str, Any], defaults: Mapping[str, Any], seed: int
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self._out = space, out
        self._seed = seed
        path = (out / "study.journal").resolve()
        with _alone(out):
            lock = JournalFileOpenLock(str(path), grace_period=GRACE)
            _mend(path, lock)
            storage = JournalStorage(JournalFileBackend(str(path), lock))
            self.study = optuna.create_study(
                storage=storage, study_name=NAME, direction="maximize", load_if_exists=True
            )
            self._keep_settings(out, settings)
            if not self.trials:
                self.study.enqueue_trial(known(space, defaults), user_attrs={"defaults": known(space, defaults)})
            self.collect()

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials in order, failed ones too."""
        return self.study.get_trials(deepcopy=False)

    def counted(self) -> int:
        """Count the trials that are complete, stopped or running."""
        return sum(trial.state in COUNTED for trial in self.trials)

    def ask(self, trials: int) -> tuple[optuna.Trial, dict[str, str], int] | None:
        """Begin a trial, unless there are `trials` of them. Return it, the keys that it tries, its folder's number.

        Processes that share the study ask one after the other: equal counts would draw equal settings.
        """
        with _alone(self._out):
            return self._begin() if self.counted() < trials else None

    def _begin(self) -> tuple[optuna.Trial, dict[str, str], int]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about experimental features
            count = len(self.trials)
            seed = integer_seed(self._seed, "sweep", count)  # different for each trial, also after a resume
            sampler = partial(optuna.samplers.TPESampler, multivariate=True, group=True, constant_liar=True)
            self.study.sampler = sampler(seed=seed)
            trial = self.study.ask()
            trial.set_user_attr("owner", _owner(os.getpid()))
            keys = suggest(trial, self.space)
        trial.set_user_attr("keys", keys)
        return trial, keys, folder(trial)

    def hopeless(self, trial: optuna.Trial, step: int, value: float) -> bool:
        """Record a value at a rung. Tell whether it is below the median of the others there; never for the defaults."""
        trial.report(value, step)
        if "defaults" in trial.user_attrs:
            return False
        counted = [other for other in self.trials if other.state in COUNTED and other.number != trial.number]
        if sum(other.state == TrialState.COMPLETE for other in counted) < ENOUGH:
            return False
        others = [other.intermediate_values[step] for other in counted if step in other.intermediate_values]
        return bool(others) and value < statistics.median(others)

    def tell(self, trial: optuna.Trial, state: str, value: float | None, **about: Any) -> None:
        """Record how a trial ended."""
        for name, text in about.items():
            trial.set_user_attr(name, text)
        self.study.tell(trial, value if state == "complete" else None, STATES[state])

    def again(self, trial: FrozenTrial | optuna.Trial) -> None:
        """Give up a trial whose process has ended. Queue its settings to be tried again in the same folder."""
        place = folder(trial)
        queued = [other.user_attrs.get("folder") for other in self.trials if other.state == TrialState.WAITING]
        kept = {k: v for k, v in trial.user_attrs.items() if k == "defaults"}
        if place not in queued:
            params = kept.get("defaults", trial.params)
            self.study.enqueue_trial(dict(params), user_attrs={**kept, "folder": place})
        self.study.tell(trial.number, state=TrialState.FAIL)

    def collect(self) -> bool:
        """Queue again the trials that a killed process left behind. Tell whether one remains that nobody claimed."""
        for trial in self.trials:
            if _left_behind(trial):
                self.again(trial)
        return any(trial.state == TrialState.RUNNING and "owner" not in trial.user_attrs for trial in self.trials)

    def best(self) -> FrozenTrial | None:
        """Return the complete trial with the highest value; of equal ones, the first."""
        complete = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        return max(complete, key=lambda trial: (trial.value, -trial.number), default=None)

    def _keep_settings(self, out: Path, settings: Mapping[str, Any]) -> None:
        """Save the settings of the sweep. Raises `ConfigError` if the study has other ones."""
        before, now = self.study.user_attrs.get("settings"), json.loads(json.dumps(settings))
        if before is None:
            self.study.set_user_attr("settings", now)
        elif before != now:
            raise ConfigError(f"{out}: holds another sweep ({differences(before, now)}). Give another out=DIRECTORY.")


def known(space: Space, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default settings that lie in the space, as parameters of Optuna."""
    found: dict[str, Any] = {}
    for name, dimension in space.items():
        value = defaults.get(name)
        if isinstance(dimension, Range) and dimension.contains(value):
            found[name] = value
        elif isinstance(dimension, Choice) and value in dimension.values:
            found[name] = dimension.texts[dimension.values.index(value)]
    return found


def suggest(trial: optuna.Trial, space: Space) -> dict[str, str]:
    """Draw the keys of a trial.

    The trial of the default settings has no keys; its values are recorded as far as the space has them.
    """
    defaults = trial.user_attrs.get("defaults")
    keys: dict[str, str] = {}
    for name, dimension in space.items():
        if defaults is not None and name not in defaults:
            continue
        if isinstance(dimension, Choice):
            keys[name] = str(trial.suggest_categorical(name, dimension.texts))
        elif dimension.integer:
            value = trial.suggest_int(name, int(dimension.low), int(dimension.high), log=dimension.log)
            keys[name] = dimension.text(value)
        else:
            keys[name] = dimension.text(trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log))
    return keys if defaults is None else {}


def folder(trial: FrozenTrial | optuna.Trial) -> int:
    """Return the number of a trial's folder: its own number, or the folder of the trial that it continues."""
    return int(trial.user_attrs.get("folder", trial.number))


def differences(before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> str:
    """Say what differs between two nested mappings."""
    old, new = (
        {f"{k} {n}".strip(): v for k, group in side.items() for n, v in group.items()} for side in (before, now)
    )
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return ", ".join(f"{name} was {old.get(name, 'not given')}" for name in changed)


def _left_behind(trial: FrozenTrial) -> bool:
    """Tell whether a trial counts as running although its process here has ended or nobody has claimed it."""
    if trial.state != TrialState.RUNNING:
        return False
    owner = trial.user_attrs.get("owner")
    if owner is None:
        return trial.datetime_start is not None and datetime.now() - trial.datetime_start > UNCLAIMED
    return bool(owner["host"] == socket.gethostname() and owner != _owner(owner["process"]))


def _owner(process: int) -> dict[str, Any]:
    """Describe a process of this machine by its number and its start, because numbers are used again."""
    try:
        begun = int(process_stat(process)[19])
    except (OSError, IndexError):
        begun = -1
    return {"host": socket.gethostname(), "process": process, "begun": begun}


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Let only one process at a time enter the block."""
    with (out / ".lock").open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _mend(path: Path, lock: JournalFileOpenLock) -> None:
    """Cut off an incomplete last line, left by a process that was killed while it wrote."""
    if not path.exists():
        return
    lock.acquire()
    try:
        with path.open("r+b") as file:
            content = file.read()
            if content and not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()

"""The parts that all opponents share: their settings, and the clock that times and evaluates their training.

An opponent trains until `Clock.goes_on` returns False, then returns an `Act`. The clock evaluates the points of the
learning curve on the way and does not count the time that this takes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from es_rl.arguments.values import is_number
from es_rl.compare.config import BaselineConfig
from es_rl.compare.judge import Act, Policy, episodes, make_env
from es_rl.errors import ConfigError, TrainingError, nearest
from es_rl.rl.presets import family
from es_rl.workers import machine

# All that an opponent needs.
__all__ = [
    "Act",
    "BaselineConfig",
    "Clock",
    "Enough",
    "Meter",
    "Policy",
    "looks",
    "make_env",
    "predict",
    "settings_of",
]

POINTS = 20  # evaluations of a curve, evenly spaced in the time or the steps that end the training
CURVE_EPISODES = 10  # episodes of each evaluation


class Clock:
    """Training time and environment steps, counted from the first `goes_on`, without the evaluations of the curve."""

    def __init__(self, config: BaselineConfig, path: Path | None) -> None:
        self._config, self._path = config, path
        self._start, self._paused, self._points = float("nan"), 0.0, 0
        self._idle_cpu = 0.0
        self._ended: tuple[float, float] | None = None  # seconds and processor seconds of the whole training
        self.family_seconds = 0.0  # processor time of all processes until the training ended, with evaluations
        self.env_steps = 0
        self.updates: int | None = None  # updates of the policy so far; None: the opponent does not count them
        self.steps_of_an_update: int | None = None
        self.resources: dict[str, Any] = {"environments": 1, "processes": 1, "threads": config.threads or 1}
        if path is not None:
            path.write_text("", encoding="utf-8")

    @property
    def seconds(self) -> float:
        """Seconds of training so far; the count stops when the training ends."""
        if self._ended is not None:
            return self._ended[0]
        return 0.0 if math.isnan(self._start) else time.monotonic() - self._start - self._paused

    @property
    def done(self) -> float:
        """The share of the training that is over, by the stop rule that is closest; above 1 if it took longer."""
        steps = 0.0 if self._config.env_steps is None else self.env_steps / self._config.env_steps
        return max(steps, self.seconds / (60 * self._config.limit))

    @property
    def left(self) -> float:
        """The share of the training that is left, at least 0."""
        return max(0.0, 1 - self.done)

    @property
    def cpu_seconds(self) -> float:
        """Processor seconds of training, in this process and its descendants; the count stops when it ends."""
        if self._ended is not None:
            return self._ended[1]
        return machine.family_seconds() - self._idle_cpu

    def uses(self, **resources: Any) -> None:
        """Record what the opponent runs on: environments, processes, threads, or a note for the report."""
        self.resources |= resources

    def begin(self) -> None:
        """Start to count, unless it has started. The first `goes_on` does this too."""
        if math.isnan(self._start):
            self._start, self._idle_cpu = time.monotonic(), machine.family_seconds()

    def goes_on(self, env_steps: int, act: Act) -> bool:
        """Tell whether there is time left; evaluate if a point of the curve is due. Call it often."""
        self.begin()
        self.env_steps = env_steps
        done = self.done
        if done * POINTS >= self._points:
            self._evaluate(act)
            self._points = int(done * POINTS) + 1
        if done >= 1 and self._ended is None:  # closing the environments is not training
            self.family_seconds = machine.family_seconds()
            self._ended = self.seconds, self.cpu_seconds
        return done < 1

    def check_updates(self) -> None:
        """Raise `TrainingError` if no update was made: the result would be that of an untrained policy."""
        if self.updates == 0:
            needed = f" of {self.steps_of_an_update} steps" if self.steps_of_an_update else ""
            rule = self._config.stop_rule
            text = f"{rule}: not one update{needed} was made in {self.env_steps} steps"
            raise TrainingError(f"{text}. Give more {rule.partition('=')[0]}.")

    def _evaluate(self, act: Act) -> None:
        seconds, cpu = self.seconds, self.cpu_seconds
        returns, _ = episodes(act, self._config, CURVE_EPISODES, self._points + 1)
        self._idle_cpu += self.cpu_seconds - cpu
        mean = float(returns.mean())
        value = mean if math.isfinite(mean) else None  # None if an episode failed: JSON has no NaN
        point = {"seconds": seconds, "cpu_seconds": cpu, "env_steps": self.env_steps, "return": value}
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(point) + "\n")
        self._paused += self.seconds - seconds


class Meter(Clock):
    """Measures the speed of training, from the first update to one at least `measure` seconds later."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config, None)
        self._marks: list[tuple[int, float]] = []  # steps and seconds after the first and the last update
        self._counted = 0

    def goes_on(self, env_steps: int, act: Act) -> bool:
        """Tell whether to go on measuring. Nothing is evaluated."""
        self.begin()
        self.env_steps = env_steps
        if (self.updates or 0) > self._counted:
            self._counted = self.updates or 0
            self._marks = [*self._marks[:1], (env_steps, self.seconds)]
        passed = self._marks[-1][1] - self._marks[0][1] if self._marks else 0.0
        return passed < self._config.measure

    @property
    def speed(self) -> float:
        """Environment steps per second."""
        (first, start), (last, end) = self._marks
        return (last - first) / (end - start)


def settings_of(
    table: Mapping[str, Mapping[str, Any]], config: BaselineConfig, known: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a table's settings for an environment of any version, with those of the command line instead where given.

    `known` has an example of each setting's value. Raises `ConfigError` for an unknown setting or an invalid value.
    """
    for name, value in config.settings.items():
        if name not in known:
            hint, names = nearest(name, known), ", ".join(sorted(known))
            raise ConfigError(f"settings.{name}: unknown to {config.name}.{hint} Known: {names}.")
        if wanted := _refusal(value, known[name]):
            raise ConfigError(f"settings.{name}={value}: must be {wanted}.")
    chosen = dict(table.get(family(config.env), {}))
    for name, value in config.settings.items():
        within = isinstance(value, dict) and isinstance(chosen.get(name), dict)
        chosen[name] = {**chosen[name], **value} if within else value
    return chosen


def _refusal(value: Any, example: Any) -> str:
    """Return what a value must be, judged by an example; empty if the value is valid. Null is always valid."""
    words = value.split() if isinstance(value, str) else []
    if isinstance(example, bool):
        return "" if value is None or isinstance(value, bool) else "true or false"
    if not isinstance(example, (int, float)) or (len(words) == 2 and words[0] == "lin" and is_number(words[1])):
        return ""
    if isinstance(value, (bool, str, dict, list)):
        return "a number"
    return "a whole number" if isinstance(example, int) and isinstance(value, float) and value % 1 else ""


def predict(model: Any, normalize_env: Any, obs: Any) -> Any:
    """Return a Stable-Baselines3 model's deterministic actions for one observation or many, normalised if need be."""
    seen = obs if normalize_env is None else normalize_env.normalize_obs(obs)
    return model.predict(seen, deterministic=True)[0]


class Enough(Exception):  # noqa: N818
    """Raised at the end of the training, to leave an algorithm that cannot be stopped otherwise."""


def looks(clock: Clock, act: Act, event: str = "_on_step") -> Any:
    """Return a Stable-Baselines3 callback that asks the clock at an event and counts the updates of the policy.

    At `_on_step` its return value ends the training. At `_on_rollout_start` it raises `Enough`.
    """
    from stable_baselines3.common.callbacks import BaseCallback

    class Looks(BaseCallback):  # type: ignore[misc]
        def _look(self) -> bool:
            clock.updates = int(self.model._n_updates)
            return clock.goes_on(self.num_timesteps, act)

        def _on_training_start(self) -> None:
            model = self.model
            on_policy = hasattr(model, "rollout_buffer")
            first = model.n_steps * model.n_envs if on_policy else getattr(model, "learning_starts", None)
            clock.steps_of_an_update = first
            self._look()  # evaluates the untrained policy

        def _on_step(self) -> bool:
            return event != "_on_step" or self._look()

        def _on_rollout_start(self) -> None:
            if event == "_on_rollout_start" and not self._look():
                raise Enough

    return Looks()

"""Check a declaration: what is wrong is named before anything is simulated."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from typing import Any

import mujoco
import numpy as np

from es_rl.envs.curriculum import Curriculum
from es_rl.envs.robot.task import Actions, Command, Ground, Observe, Push, Start, Task, Vary
from es_rl.envs.robot.world import is_free
from es_rl.errors import ConfigError, EnvError, lookup

PARTS = {
    "actions": Actions, "start": Start, "command": Command, "push": Push, "ground": Ground, "curriculum": Curriculum
}  # fmt: skip
NEEDED = ("actions", "start")  # the others may be None
TERMS = ("observations", "rewards", "ends", "metrics")


def check_task(task: Task) -> None:
    """Raise `ConfigError` for parts that no model could have."""
    _check_kinds(task)
    _check_terms(task)
    _check_numbers(task)
    steps = task.steps
    if not 0 <= task.actions.delay <= steps:
        raise ConfigError(f"actions: delay={task.actions.delay} must lie between 0 and an episode's {steps} steps.")
    for name, o in task.observations.items():
        if isinstance(o, Observe):
            _check_observation(name, o, steps)
    start = task.start
    if min(start.joints, start.velocities, start.place, start.turn) < 0:
        raise ConfigError("start: the sizes of its noise must be at least 0.")
    if start.pose is not None and not callable(start.pose):
        raise ConfigError("start: pose must be a function of the model and a generator.")
    if start.pose is not None and (start.keyframe or start.joints or start.place or start.turn or task.ground):
        raise ConfigError("start: pose draws all of qpos. Leave out keyframe, joints, place and turn, and ground.")
    if task.command is not None:
        _check_command(task.command)
    if task.push is not None:
        _check_push(task.push, task.step_seconds)
    if task.curriculum is not None:
        _check_curriculum(task, task.curriculum)


def _check_kinds(task: Task) -> None:
    parts = {name: part for name in PARTS if (part := getattr(task, name)) is not None or name in NEEDED}
    for name, part in parts.items():
        if not isinstance(part, PARTS[name]):
            raise ConfigError(f"{name}: must be a robot.{PARTS[name].__name__}, and is {part!r}.")
    for name in TERMS:
        if not isinstance(getattr(task, name), Mapping):
            raise ConfigError(f"{name}: must be terms by name, such as {{'up': …}}.")
    if not isinstance(task.varies, (list, tuple)) or not all(isinstance(vary, Vary) for vary in task.varies):
        raise ConfigError("varies: must be a list of robot.Vary.")
    observed = {name: o for name, o in task.observations.items() if isinstance(o, Observe)}
    for name, part in [*parts.items(), *observed.items(), *((vary.field, vary) for vary in task.varies)]:
        for field in fields(part):  # their types are text, by `from __future__ import annotations`
            value = getattr(part, field.name)
            if field.type in ("float", "int") and (not isinstance(value, Real) or isinstance(value, bool)):
                raise ConfigError(f"{name}: {field.name}={value!r} must be a number.")
            if field.type == "int" and not isinstance(value, Integral):
                raise ConfigError(f"{name}: {field.name}={value} must be a whole number.")


def _check_terms(task: Task) -> None:
    if not task.observations or not task.rewards:
        raise ConfigError("a task needs at least one observation and one reward.")
    for name, pair in task.rewards.items():
        if not (isinstance(pair, tuple) and len(pair) == 2 and callable(pair[1]) and isinstance(pair[0], Real)):
            raise ConfigError(f"the reward {name}: must be a weight and a term, such as (1.0, terms.upright).")
    if task.mark is not None and not callable(task.mark):
        raise ConfigError(f"mark: must be a term, a function, and is {task.mark!r}.")
    for kind, terms in (("observation", task.observations), ("end", task.ends), ("metric", task.metrics)):
        for name, term in terms.items():
            if not callable(term) and not (kind == "observation" and isinstance(term, Observe)):
                raise ConfigError(f"the {kind} {name}: must be a term, a function, and is {term!r}.")


def _check_curriculum(task: Task, curriculum: Curriculum) -> None:
    if task.ground is None:
        raise ConfigError("curriculum: chooses patches of a ground, and the task has none. Give ground=robot.Ground().")
    lookup(task.metrics, curriculum.metric, "curriculum: the metric")
    if not curriculum.step > 0:
        raise ConfigError(f"curriculum: step={curriculum.step:g} must be above 0.")


def _check_numbers(task: Task) -> None:
    for name, value in _numbers(task):
        if not math.isfinite(value):
            raise ConfigError(f"{name}={value}: must be a finite number.")
    for name, given in (("step_seconds", task.step_seconds), ("seconds", task.seconds)):
        if not isinstance(given, Real):
            raise ConfigError(f"{name}={given!r}: must be a number.")
    if task.step_seconds <= 0 or task.seconds < task.step_seconds:
        raise ConfigError(
            f"step_seconds={task.step_seconds:g}, seconds={task.seconds:g}: a step must take time, and an episode "
            f"at least a step."
        )


def _check_observation(name: str, o: Observe, steps: int) -> None:
    if o.history < 1 or o.delay < 0 or o.noise < 0 or not o.clip > 0:
        raise ConfigError(
            f"the observation {name}: history={o.history} must be at least 1, delay={o.delay} and noise={o.noise:g} at "
            f"least 0, and clip={o.clip:g} above 0."
        )
    if o.delay + o.history > steps:
        raise ConfigError(
            f"the observation {name}: delay={o.delay} and history={o.history} are more than an episode's {steps} steps."
        )


def _check_push(push: Push, dt: float) -> None:
    if np.shape(push.seconds) != (2,):
        raise ConfigError(f"push: seconds={push.seconds} must be a range, such as (5.0, 10.0).")
    if not 0 < push.seconds[0] <= push.seconds[1] or push.speed < 0:
        raise ConfigError(f"push: seconds={push.seconds} must be a range above 0, and speed at least 0.")
    if push.seconds[0] < dt:
        raise ConfigError(f"push: seconds={push.seconds} must be at least step_seconds={dt:g}.")


def _check_command(command: Command) -> None:
    if not isinstance(command.ranges, Mapping):
        raise ConfigError("command: must have ranges by name, such as {'forward': (-1.0, 1.0)}.")
    for name, given in command.ranges.items():
        if not (isinstance(given, (tuple, list)) and len(given) == 2):
            raise ConfigError(f"the command {name}: must be a range, such as (-1.0, 1.0), and is {given!r}.")
        if not given[0] <= given[1]:
            raise ConfigError(f"the command {name}: the range {given[0]:g} to {given[1]:g} is the wrong way round.")
    if not command.ranges or command.seconds <= 0 or not 0 <= command.still <= 1:
        raise ConfigError("command: needs at least one range, seconds above 0, and still between 0 and 1.")


def check_model(task: Task, model: mujoco.MjModel) -> None:
    """Raise `ConfigError` or `EnvError` for parts of a declaration that do not go together with the model."""
    scale = np.shape(task.actions.scale)
    if scale not in ((), (model.nu,)):
        raise ConfigError(f"actions: scale has the shape {scale}, and the model has {model.nu} actuators.")
    if not model.nu:
        raise EnvError("the robot's model has no actuators, so nothing can be learnt.")
    root = {"push": task.push is not None, "start.place": task.start.place, "start.turn": task.start.turn}
    root["ground"] = task.ground is not None
    if not is_free(model) and (named := [name for name, given in root.items() if given]):
        raise EnvError(f"{', '.join(named)}: needs a model whose first joint is free. Leave it out.")


def substeps(task: Task, model: mujoco.MjModel) -> int:
    """Return the steps of physics in a step of the task. Raises `ConfigError` if these are no whole number."""
    count = task.step_seconds / model.opt.timestep
    if count < 0.5 or abs(count - round(count)) > 1e-6 * count:
        raise ConfigError(
            f"step_seconds={task.step_seconds:g}: must be a multiple of the model's timestep, {model.opt.timestep:g} s."
        )
    return int(count + 0.5)


def _numbers(part: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all numbers of a declaration, by name."""
    if isinstance(part, Real) and not isinstance(part, bool):
        yield name, part
    elif isinstance(part, (tuple, list, np.ndarray)):
        for value in part:
            yield from _numbers(value, name)
    elif isinstance(part, Mapping):
        for key, value in part.items():
            yield from _numbers(value, f"{name}.{key}")
    elif is_dataclass(part):
        for field in fields(part):
            if field.name != "model" and not (isinstance(part, Observe) and field.name == "clip"):  # may be infinite
                yield from _numbers(getattr(part, field.name), f"{name}.{field.name}".lstrip("."))

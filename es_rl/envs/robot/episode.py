"""The random numbers of an episode: its model, its start, its commands, pushes and noise.

All come from streams that the seed of the reset names. So two members with the same seed meet the same world, and a
simulation that goes on elsewhere draws it again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from es_rl.envs.robot.ground import Terrain
from es_rl.envs.robot.task import Command, Push, Start, Vary
from es_rl.envs.robot.world import find, is_free, names
from es_rl.envs.spaces import Floats
from es_rl.errors import ConfigError, EnvError, lookup, nearest
from es_rl.rng import stream

NOISE_STEPS = 64  # steps whose noise is drawn together
HOW: dict[str, Any] = {
    "scale": lambda default, drawn: default * drawn,
    "add": lambda default, drawn: default + drawn,
    "set": lambda default, drawn: np.broadcast_to(drawn, default.shape),
}
# The kind of object that has a name for each row of a field, by how the field's name begins.
KINDS = {
    "body": "body", "geom": "geom", "site": "site", "jnt": "joint", "actuator": "actuator", "tendon": "tendon",
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """The numbers of a field that vary."""

    field: str
    rows: NDArray[np.int64]
    column: int | None

    @classmethod
    def of(cls, model: mujoco.MjModel, field: str, column: int | None, pattern: str) -> Part:
        """Find the rows whose names fit a pattern. Raises `EnvError` if there are none, or the field cannot vary."""
        if field.startswith(("key_", "qpos0")):
            raise EnvError(f"{field}: has no effect on an episode. Give start= its noise.")
        default = model_field(model, field)
        if not default.ndim or default.dtype.kind != "f":
            raise EnvError(f"{field}: is {default.dtype} {default.shape}; only arrays of real numbers can vary.")
        if column is not None and not (default.ndim == 2 and 0 <= column < default.shape[1]):
            raise EnvError(f"{field}: has the shape {default.shape}, and so no column {column}.")
        if field.startswith("dof_"):
            of_rows = [names(model, "joint")[j] for j in model.dof_jntid]
        elif (kind := KINDS.get(field.partition("_")[0])) is not None:
            of_rows = names(model, kind)
        elif pattern != "*":
            raise EnvError(f"{field}: its rows have no names, so names={pattern!r} fits none. Leave names out.")
        else:
            return cls(field, np.arange(len(default)), column)
        rows = np.array([i for i, name in enumerate(of_rows) if fnmatchcase(name, pattern)], np.int64)
        if not len(rows):
            raise EnvError(f"{field}: no name fits {pattern!r}.{nearest(pattern, [name for name in of_rows if name])}")
        return cls(field, rows, column)

    def changed(self, default: Floats, how: str, drawn: Floats) -> Floats:
        """Return the field of an episode with these drawn numbers, `default` where it does not vary."""
        value = np.array(default, np.float64)
        column = slice(None) if self.column is None or value.ndim == 1 else self.column
        index = (self.rows, column) if value.ndim > 1 else self.rows
        shape = (-1, *[1] * (value[index].ndim - 1))
        value[index] = HOW[how](value[index], drawn.reshape(shape))
        return value


@dataclass(frozen=True)
class Varied:
    """A `Vary` for a certain model."""

    vary: Vary
    parts: tuple[Part, ...]  # the field, and those along it

    @classmethod
    def of(cls, vary: Vary, model: mujoco.MjModel) -> Varied:
        """Find the rows. Raises `EnvError` for a pattern that fits no name, `ConfigError` for what is impossible."""
        lookup(HOW, vary.how, "how")
        if not vary.low <= vary.high:
            raise ConfigError(f"{vary.field}: the range {vary.low:g} to {vary.high:g} is the wrong way round.")
        if vary.along and vary.how != "scale":
            raise ConfigError(f"{vary.field}: along={list(vary.along)} needs how=scale, and has how={vary.how}.")
        if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in vary.along):
            raise ConfigError(
                f"{vary.field}: along={list(vary.along)} must hold pairs of a field and a column, such as "
                f"('body_inertia', None)."
            )
        fields = ((vary.field, vary.column), *vary.along)
        parts = tuple(Part.of(model, field, column, vary.names) for field, column in fields)
        for part in parts[1:]:
            if len(part.rows) != len(parts[0].rows):
                raise EnvError(f"{part.field}: has other rows than {vary.field}, and so cannot vary along it.")
        return cls(vary, parts)

    def draw(self, source: np.random.Generator) -> Floats:
        """Return the numbers of an episode: one for each row, or one for all."""
        return source.uniform(self.vary.low, self.vary.high, 1 if self.vary.together else len(self.parts[0].rows))


def model_field(model: mujoco.MjModel, name: str) -> Any:
    """Return a field of a model, `opt.…` too. Raises `EnvError` for an unknown name."""
    place, _, last = name.rpartition(".")
    try:
        return np.array(getattr(getattr(model, place) if place else model, last))
    except AttributeError as error:
        hint = nearest(name, [other for other in dir(model) if not other.startswith("_")])
        raise EnvError(f"{name}: MjModel has no such field.{hint}") from error


def begin(
    start: Start,
    model: mujoco.MjModel,
    source: np.random.Generator,
    terrain: Terrain | None = None,
    difficulty: float = 1.0,
) -> tuple[Floats, Floats]:
    """Return qpos and qvel at the start of an episode.

    On a terrain, it begins on a random patch that is at most as difficult as `difficulty`, from 0 to 1.
    """
    qpos = np.array(model.qpos0 if start.keyframe is None else model.key_qpos[find(model, "key", start.keyframe)])
    qvel = np.zeros(model.nv)
    for kind, place in zip(model.jnt_type, model.jnt_qposadr, strict=True):
        # An int, since `enum == NumPy integer` is false, and `in` compares so.
        if int(kind) in (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE):
            qpos[place] += source.uniform(-start.joints, start.joints)
    if is_free(model):
        qpos[:2] += source.uniform(-start.place, start.place, 2)
        if terrain is not None:
            kinds, levels = terrain.places.shape[:2]
            open_levels = 1 + int(difficulty * (levels - 1) + 1e-9)
            qpos[:3] += terrain.places[source.integers(kinds), source.integers(open_levels)]
        half = source.uniform(-start.turn, start.turn) / 2
        turned = np.zeros(4)
        mujoco.mju_mulQuat(turned, np.array([np.cos(half), 0, 0, np.sin(half)]), qpos[3:7])
        qpos[3:7] = turned
    qvel += source.uniform(-start.velocities, start.velocities, model.nv)
    return qpos, qvel


def posed(start: Start, model: mujoco.MjModel, seed: int, qpos: Floats) -> Floats:
    """Return qpos, or what the task's own function draws in its place. Raises `EnvError` if that has another shape."""
    if start.pose is None:
        return qpos
    try:
        drawn = np.asarray(start.pose(model, stream(seed, "robot", 3)), np.float64)
    except Exception as error:
        raise EnvError(f"start: pose raised {type(error).__name__}: {error}.") from error
    if drawn.shape != (model.nq,) or not np.isfinite(drawn).all():
        raise EnvError(f"start: pose returns the shape {drawn.shape}, and must return ({model.nq},) finite numbers.")
    return drawn


def commands(command: Command | None, steps: int, dt: float, source: np.random.Generator) -> Floats:
    """Return the command before each step of an episode and after the last one, (steps + 1, C)."""
    if command is None:
        return np.zeros((steps + 1, 0))
    each = min(steps + 1, max(1, round(command.seconds / dt)))
    low, high = np.array(list(command.ranges.values()), np.float64).T
    drawn = source.uniform(low, high, (steps // each + 1, len(low)))
    drawn[source.random(len(drawn)) < command.still] = 0.0
    return np.repeat(drawn, each, axis=0)[: steps + 1]


def pushes(push: Push | None, steps: int, dt: float, source: np.random.Generator) -> Floats:
    """Return the change of the root's x and y velocity before each step of an episode, (steps, 2)."""
    change = np.zeros((steps, 2))
    if push is None:
        return change
    longest = math.ceil(steps * dt / push.seconds[0]) + 1
    low, high = [push.seconds[0], 0.0, 0.0], [push.seconds[1], push.speed, 2 * np.pi]
    step = 0.0
    for wait, speed, angle in source.uniform(low, high, (longest, 3)):
        step += wait / dt
        if step < steps:
            change[int(step)] = speed * np.cos(angle), speed * np.sin(angle)
    return change


def noise(seed: int, block: int, sizes: Floats) -> Floats:
    """Return uniform noise for `NOISE_STEPS` steps, (NOISE_STEPS, K), of these sizes (K,)."""
    return stream(seed, "robot", 1, block).uniform(-1.0, 1.0, (NOISE_STEPS, len(sizes))) * sizes


def world(seed: int) -> np.random.Generator:
    """Return the stream of everything that is drawn when an episode begins."""
    return stream(seed, "robot", 0)

"""Ready terms: functions of all simulations at hand. Positions are in metres, angles in radians, times in seconds.

The root is the first joint of the model, if it is free: its position is qpos[:, :3], its quaternion qpos[:, 3:7]. Own
terms are written in the same way. Sum and multiply elementwise: the rounding of a matrix product (`@`) may depend on
the number of simulations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from es_rl.envs.robot.task import Term
from es_rl.envs.robot.world import World, find, heading, joints_called, rotate_back
from es_rl.envs.spaces import Bools, Floats
from es_rl.errors import EnvError, lookup

DOWN = np.array([[0.0, 0.0, -1.0]])


def first(w: World, *, of_velocities: bool = False) -> int:
    """Return where the joints behind a free root begin in qpos, or in qvel."""
    return (6 if of_velocities else 7) if w.free else 0


def root(w: World) -> World:
    """Return the same. Raises `EnvError` for a model whose first joint is not free."""
    if not w.free:
        raise EnvError(
            "a term of the root, such as gravity, velocity or height, needs a model whose first joint is free."
        )
    return w


# --- observations


def joint_positions(w: World) -> Floats:
    """Return the angles or places of the joints, but for a free root, from the pose `qpos0` of the model."""
    start = first(w)
    found: Floats = w.qpos[:, start:] - w.model.qpos0[start:]
    return found


def joint_velocities(w: World) -> Floats:
    """Return the velocities of the joints, but for a free root, in radians or metres per second."""
    return w.qvel[:, first(w, of_velocities=True) :]


def gravity(w: World) -> Floats:
    """Return the direction of gravity in the root's frame, a unit vector (n, 3)."""
    quaternion = root(w).qpos[:, 3:7]
    return w.once("es_rl/gravity", lambda: rotate_back(quaternion, np.broadcast_to(DOWN, (len(quaternion), 3))))


def velocity(w: World) -> Floats:
    """Return the root's linear velocity in its own frame, (n, 3), in metres per second."""
    quaternion = root(w).qpos[:, 3:7]
    return w.once("es_rl/velocity", lambda: rotate_back(quaternion, w.qvel[:, :3]))


def turning(w: World) -> Floats:
    """Return the root's angular velocity in its own frame, (n, 3), in radians per second."""
    return root(w).qvel[:, 3:6]


def height(w: World) -> Floats:
    """Return the height of the root above the ground, (n,)."""
    place = root(w).qpos
    return place[:, 2] if w.terrain is None else place[:, 2] - w.terrain.height(place[:, 0], place[:, 1])


def ground(ahead: Sequence[float], beside: Sequence[float]) -> Term:
    """Return a term: the height of the root above the ground at points ahead of it and beside it, (n, K).

    The points are a grid in the root's heading: each of `ahead` with each of `beside`, in metres.
    """
    x, y = (part.ravel() for part in np.meshgrid(ahead, beside, indexing="ij"))  # (K,)

    def term(w: World) -> Floats:
        place = root(w).qpos
        turned = heading(place[:, 3:7])[:, None]  # (n, 1)
        cos, sin = np.cos(turned), np.sin(turned)
        px, py = place[:, 0:1] + cos * x - sin * y, place[:, 1:2] + sin * x + cos * y  # (n, K)
        below: Floats = np.zeros_like(px) if w.terrain is None else w.terrain.height(px, py)
        return place[:, 2:3] - below

    return term


def action(w: World) -> Floats:
    """Return the latest actions."""
    return w.action


def command(w: World) -> Floats:
    """Return the command, in the order of its declaration."""
    return w.command


def sensor(name: str) -> Term:
    """Return a term: the values of a sensor of the model."""
    return lambda w: w.sensor(name)


def site(name: str) -> Term:
    """Return a term: the place of a site in the world, (n, 3), in metres."""
    return lambda w: w.site_xpos[:, w.site(name)]


def offset(start: Term, end: Term) -> Term:
    """Return a term: the way from one place to another in the world, (n, 3), in metres."""
    return lambda w: np.asarray(end(w) - start(w))


# --- rewards


def upright(w: World) -> Floats:
    """Return 1 if the root stands upright, −1 if it is upside down: the cosine of its tilt."""
    return -gravity(w)[:, 2]


def follows(columns: Sequence[int], what: Callable[[World], Floats], of: Sequence[int], tolerance: float) -> Term:
    """Return a term: 1 if `what` is as commanded, e^(−1) if it is off by `tolerance`.

    Numbers `of` of the command are compared with `columns` of `what`, such as `velocity`.
    """

    def term(w: World) -> Floats:
        value: Floats = np.exp(-_squared_miss(w, columns, what, of) / tolerance**2)
        return value

    return term


def _squared_miss(w: World, columns: Sequence[int], what: Callable[[World], Floats], of: Sequence[int]) -> Floats:
    off = np.ascontiguousarray(what(w)[:, list(columns)] - w.command[:, list(of)])  # summed alike for any n
    squared: Floats = np.square(off).sum(axis=1)
    return squared


def goes_along(columns: Sequence[int], what: Callable[[World], Floats], of: Sequence[int], least: float) -> Term:
    """Return a term: 1 if `what` is at least as large as commanded along the command, 0 if it is zero, −1 if opposite.

    It rewards a first small step, which `follows` hardly does. A command shorter than `least` asks for that much; if
    nothing is commanded, the term is 0.
    """

    def term(w: World) -> Floats:
        told = np.ascontiguousarray(w.command[:, list(of)])
        size = np.maximum(np.sqrt(np.square(told).sum(axis=1)), 1e-9)
        along = np.ascontiguousarray(what(w)[:, list(columns)] * told).sum(axis=1) / size
        value: Floats = np.clip(along / np.maximum(size, least), -1.0, 1.0)
        return value

    return term


def misses(columns: Sequence[int], what: Callable[[World], Floats], of: Sequence[int]) -> Term:
    """Return a term: how far `what` is from the command, the length of the difference. For `metrics`; see `follows`."""

    def term(w: World) -> Floats:
        value: Floats = np.sqrt(_squared_miss(w, columns, what, of))
        return value

    return term


def apart(one: Term, other: Term) -> Term:
    """Return a term: the distance of two places (n, 3), in metres. For `metrics`, or a reward of negative weight."""

    def term(w: World) -> Floats:
        value: Floats = np.sqrt(np.square(one(w) - other(w)).sum(axis=1))
        return value

    return term


def near(one: Term, other: Term, tolerance: float) -> Term:
    """Return a term: 1 if two places (n, 3) are the same, e^(−1) if they are `tolerance` metres apart."""

    def term(w: World) -> Floats:
        value: Floats = np.exp(-np.square(one(w) - other(w)).sum(axis=1) / tolerance**2)
        return value

    return term


def effort(w: World) -> Floats:
    """Return the sum of the squared forces of the actuators."""
    value: Floats = np.square(w.actuator_force).sum(axis=1)
    return value


def action_change(w: World) -> Floats:
    """Return the sum of the squared changes of the actions since the step before."""
    value: Floats = np.square(w.action - w.last_action).sum(axis=1)
    return value


def pose(w: World) -> Floats:
    """Return the sum of the squared joint angles from the pose `qpos0`."""
    value: Floats = np.square(joint_positions(w)).sum(axis=1)
    return value


def shaking(w: World) -> Floats:
    """Return the root's squared vertical velocity plus 0.05 times the sum of its squared roll and pitch rates."""
    value: Floats = np.square(root(w).qvel[:, 2]) + 0.05 * np.square(turning(w)[:, :2]).sum(axis=1)
    return value


def leaning(w: World) -> Floats:
    """Return the squared sine of the root's tilt: 0 if it stands upright."""
    value: Floats = np.square(gravity(w)[:, :2]).sum(axis=1)
    return value


def away_from(keyframe: str, names: str = "*") -> Term:
    """Return a term: the sum of the squared distances of joints from a keyframe, in radians or metres.

    `names` is a pattern for the names of the joints. A free root is left out.
    """

    def term(w: World) -> Floats:
        start = first(w)
        key = w.fact(("key", keyframe), lambda: find(w.model, "key", keyframe))
        chosen = w.fact(("joints", names), lambda: joints_called(w.model, names))
        off = w.qpos[:, start:] - w.model.key_qpos[key, start:]
        value: Floats = (np.square(off) * chosen[start:]).sum(axis=1)
        return value

    return term


def alive(w: World) -> Floats:
    """Return 1."""
    return np.ones(len(w.qpos))


SHAPES: dict[str, Callable[[Floats, float], Floats]] = {
    "gaussian": lambda off, least: least ** np.square(off),
    "linear": lambda off, least: np.maximum(1.0 - (1.0 - least) * off, 0.0),
    "quadratic": lambda off, least: np.maximum(1.0 - (1.0 - least) * np.square(off), 0.0),
}


def tolerance(
    value: Floats, low: float, high: float = np.inf, *, margin: float = 0.0, at_margin: float = 0.1,
    shape: str = "gaussian",
) -> Floats:  # fmt: skip
    """Return 1 where a value lies from low to high, and less outside: `at_margin` where it is off by `margin`.

    A part of own terms, for values of any shape and unit (Tassa et al. 2018: DeepMind Control Suite).
    """
    off = np.maximum(np.maximum(low - value, value - high), 0.0)
    return lookup(SHAPES, shape, "shape")(off / margin, at_margin) if margin else np.where(off == 0, 1.0, 0.0)


# --- ends


def lower_than(metres: float) -> Term:
    """Return a term: the root is lower than this above the ground."""

    def term(w: World) -> Bools:
        return height(w) < metres

    return term


def tilted(radians: float) -> Term:
    """Return a term: the root is tilted by more than this."""

    def term(w: World) -> Bools:
        found: Bools = upright(w) < np.cos(radians)
        return found

    return term

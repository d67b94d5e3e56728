"""es_rl/Ball-v0: a plate that tilts keeps a ball on it, and rolls it after a moving target.

Actions: the tilt of the plate about two axes, in radians. Command: the middle of a circle on the plate in metres, and
the speed in radians per second at which the target goes round it. An episode ends when the ball leaves the plate.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from es_rl.envs import robot
from es_rl.envs.robot import terms
from es_rl.envs.robot.world import World
from es_rl.envs.spaces import Bools, Floats

MODEL = Path(__file__).with_name("ball.xml")
RADIUS = 0.1  # of the target's circle, in metres
HALF = 0.3  # of the plate's side, in metres


def tilt(w: World) -> Floats:
    """Return the angles of the plate's joints, (n, 2), in radians."""
    return w.qpos[:, :2]


def tilting(w: World) -> Floats:
    """Return the velocities of the plate's joints, (n, 2), in radians per second."""
    return w.qvel[:, :2]


def ball(w: World) -> Floats:
    """Return the place of the ball on the plate, (n, 2), in metres from its middle."""
    return w.sensor("place")[:, :2]


def rolling(w: World) -> Floats:
    """Return the velocity of the ball on the plate, (n, 2), in metres per second."""
    return w.sensor("speed")[:, :2]


def target(w: World) -> Floats:
    """Return the place of the target on the plate, (n, 2), in metres from its middle."""
    angle = w.command[:, 2] * w.time
    return w.command[:, :2] + RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def going(w: World) -> Floats:
    """Return the velocity of the target on the plate, (n, 2), in metres per second."""
    rate = w.command[:, 2]
    angle, speed = rate * w.time, RADIUS * rate
    return np.stack([-speed * np.sin(angle), speed * np.cos(angle)], axis=1)


def shown(w: World) -> Floats:
    """Return the place of the target in the world, (n, 3), in metres."""
    plate, on_plate = w.site("plate"), target(w)
    axes = w.site_xmat[:, plate].reshape(-1, 3, 3)
    place: Floats = w.site_xpos[:, plate] + axes[:, :, 0] * on_plate[:, 0:1] + axes[:, :, 1] * on_plate[:, 1:2]
    return place


def fallen(w: World) -> Bools:
    """Tell where the ball has left the plate, (n,)."""
    found: Bools = np.abs(ball(w)).max(axis=1) > HALF
    return found


def task(**changes: object) -> robot.Task:
    """Return the declaration, with some of its fields changed."""
    declared: dict[str, object] = {
        "model": MODEL,
        "actions": robot.Actions(scale=0.3, delay=1),
        "observations": {
            "tilt": robot.Observe(tilt, noise=0.003, scale=4.0),
            "tilting": robot.Observe(tilting, noise=0.05, scale=0.5),
            "ball": robot.Observe(ball, noise=0.003, scale=5.0),
            "rolling": robot.Observe(rolling, noise=0.02, scale=2.0),
            "way": robot.Observe(terms.offset(ball, target), noise=0.003, scale=8.0),
            "going": robot.Observe(going, scale=4.0),
            "action": terms.action,
        },
        "rewards": {
            "near": (1.0, terms.near(ball, target, tolerance=0.15)),
            "reaches": (1.5, terms.near(ball, target, tolerance=0.04)),
            "action_change": (-0.1, terms.action_change),
        },
        "ends": {"fallen": fallen},
        "metrics": {"distance": terms.apart(ball, target)},
        "start": robot.Start(joints=0.1, velocities=0.2),
        "command": robot.Command(
            {"x": (-0.08, 0.08), "y": (-0.08, 0.08), "round": (-3.0, 3.0)}, seconds=5.0, still=0.1
        ),
        "varies": [
            robot.Vary("geom_friction", 0.6, 1.3, column=0, together=True),
            robot.Vary("body_mass", 0.5, 2.0, names="ball", along=[("body_inertia", None)]),
            robot.Vary("dof_damping", 0.5, 2.0, names="[pr]*"),
            robot.Vary("actuator_gainprm", 0.9, 1.1, column=0, along=[("actuator_biasprm", 1)]),
            robot.Vary("opt.gravity", -0.1, 0.1, how="add"),
        ],
        "mark": shown,
    }
    return robot.Task(**(declared | changes))  # type: ignore[arg-type]

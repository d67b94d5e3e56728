"""es_rl/Biped-v0: a robot on two legs, 0.85 m tall, walks and turns as it is told.

Actions: position targets of 10 joints about the standing pose. Command: forward velocity in metres per second, turning
rate in radians per second. A clock says which foot is to be lifted. An episode ends when the trunk tilts or sinks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from es_rl.envs import robot
from es_rl.envs.robot import terms
from es_rl.envs.robot.world import World
from es_rl.envs.spaces import Floats

MODEL = Path(__file__).with_name("biped.xml")
PERIOD = 0.7  # seconds in which each foot makes a step
LIFT = 0.06  # of a foot at its highest, in metres
SIDES = ("left", "right")


def clock(w: World) -> Floats:
    """Return the sine and cosine of the phase, (n, 2). While the sine is positive, the left foot is to be up."""
    phase = 2 * np.pi * w.time / PERIOD
    return np.stack([np.sin(phase), np.cos(phase)], axis=1)


def soles(w: World) -> Floats:
    """Return the heights of the left and right sole above the ground, (n, 2), in metres."""
    return np.stack([w.site_xpos[:, w.site(f"{side}_sole"), 2] for side in SIDES], axis=1)


def steps(w: World) -> Floats:
    """Return 1 if both feet are as high as the clock says, 0 if they are off by `LIFT` together.

    Both are to be down if the robot is told to stand.
    """
    sine, moves = clock(w)[:, 0:1], np.abs(w.command).max(axis=1, keepdims=True) > 0.1
    lifted = LIFT * moves * np.maximum(np.concatenate([sine, -sine], axis=1), 0.0)
    value: Floats = 1.0 - np.abs(soles(w) - lifted).sum(axis=1) / LIFT
    return value


def slips(w: World) -> Floats:
    """Return the squared horizontal speeds of the soles that are on the ground, their sum, (n,)."""
    speeds = np.stack([np.square(w.sensor(f"{side}_sole")[:, :2]).sum(axis=1) for side in SIDES], axis=1)
    value: Floats = np.where(soles(w) < 0.01, speeds, 0.0).sum(axis=1)
    return value


def drifts(w: World) -> Floats:
    """Return the squared sideways velocity, (n,)."""
    value: Floats = np.square(terms.velocity(w)[:, 1])
    return value


def straddles(w: World) -> Floats:
    """Return the sum of the squared yaw and roll angles of the hips, (n,)."""
    value: Floats = np.square(w.qpos[:, 7:9]).sum(axis=1) + np.square(w.qpos[:, 12:14]).sum(axis=1)
    return value


def task(**changes: object) -> robot.Task:
    """Return the declaration, with some of its fields changed."""
    declared: dict[str, object] = {
        "model": MODEL,
        "actions": robot.Actions(scale=0.4, about="stand"),
        "observations": {
            "gravity": robot.Observe(terms.gravity, noise=0.03),
            "turning": robot.Observe(terms.turning, noise=0.1, scale=0.25),
            "velocity": robot.Observe(terms.velocity, noise=0.1),
            "joints": robot.Observe(terms.joint_positions, noise=0.01),
            "rates": robot.Observe(terms.joint_velocities, noise=0.5, scale=0.05),
            "action": terms.action,
            "command": terms.command,
            "clock": clock,
        },
        "rewards": {
            "follows": (1.0, terms.follows([0], terms.velocity, [0], tolerance=0.3)),
            "goes": (0.7, terms.goes_along([0], terms.velocity, [0], least=0.3)),
            "turns": (1.2, terms.follows([2], terms.turning, [1], tolerance=0.8)),
            "steps": (2.0, steps),
            "alive": (0.3, terms.alive),
            "slips": (-0.5, slips),
            "drifts": (-1.0, drifts),
            "straddles": (-0.5, straddles),
            "effort": (-1e-4, terms.effort),
            "action_change": (-0.01, terms.action_change),
            "shaking": (-0.1, terms.shaking),
        },
        "ends": {"tilted": terms.tilted(0.8), "sunk": terms.lower_than(0.36)},
        "metrics": {
            "velocity_error": terms.misses([0], terms.velocity, [0]),
            "turning_error": terms.misses([2], terms.turning, [1]),
        },
        "start": robot.Start(keyframe="stand", joints=0.05, velocities=0.1, turn=3.14),
        "command": robot.Command({"forward": (-0.3, 0.8), "turn": (-0.8, 0.8)}),
        "varies": [
            robot.Vary("geom_friction", 0.6, 1.3, column=0, together=True),
            robot.Vary("body_mass", 0.85, 1.15, along=[("body_inertia", None)]),
            robot.Vary("dof_damping", 0.7, 1.3, names="*_*"),
            robot.Vary("actuator_gainprm", 0.95, 1.05, column=0, together=True, along=[("actuator_biasprm", 1)]),
        ],
        "push": robot.Push(seconds=(4.0, 8.0), speed=0.25),
    }
    return robot.Task(**(declared | changes))  # type: ignore[arg-type]

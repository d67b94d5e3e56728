"""es_rl/Arm-v0: an arm of six joints follows a moving target with its hand.

Actions: velocities of the joints. Command: the middle of a circle in metres, in the frame of the arm's base, and the
speed in radians per second at which the target goes round it. An episode ends when the hand hits the floor.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from es_rl.envs import robot
from es_rl.envs.robot import terms
from es_rl.envs.robot.world import World
from es_rl.envs.spaces import Bools, Floats

MODEL = Path(__file__).with_name("arm.xml")
RADIUS = 0.1  # of the target's circle, in metres
FLOOR = 0.03  # lowest height of the hand, in metres
SPEEDS = (2.0, 2.0, 2.0, 3.0, 3.0, 3.0)  # of the joints, in radians per second
hand = terms.site("hand")


def target(w: World) -> Floats:
    """Return the place of the target, (n, 3), on an upright circle that faces the arm."""
    angle = w.command[:, 3] * w.time
    place = w.command[:, :3].copy()
    place[:, 1] += RADIUS * np.cos(angle)
    place[:, 2] += RADIUS * np.sin(angle)
    return place


def going(w: World) -> Floats:
    """Return the velocity of the target, (n, 3), in metres per second."""
    rate = w.command[:, 3]
    angle, speed = rate * w.time, RADIUS * rate
    return np.stack([np.zeros_like(rate), -speed * np.sin(angle), speed * np.cos(angle)], axis=1)


def hits_floor(w: World) -> Bools:
    """Tell where the hand is too low, (n,)."""
    found: Bools = hand(w)[:, 2] < FLOOR
    return found


def reached(w: World) -> Floats:
    """Return 1 where the hand is within 3 cm of the target, (n,)."""
    return (terms.apart(hand, target)(w) < 0.03).astype(np.float64)


def task(**changes: object) -> robot.Task:
    """Return the declaration, with some of its fields changed."""
    declared: dict[str, object] = {
        "model": MODEL,
        "actions": robot.Actions(scale=SPEEDS),
        "observations": {
            "joints": robot.Observe(terms.joint_positions, noise=0.005),
            "rates": robot.Observe(terms.joint_velocities, noise=0.05, scale=0.5),
            "hand": robot.Observe(hand, noise=0.003, scale=2.0),
            "way": robot.Observe(terms.offset(hand, target), noise=0.003, scale=4.0),
            "going": robot.Observe(going, noise=0.01, scale=4.0),
            "action": terms.action,
        },
        "rewards": {
            "near": (1.0, terms.near(hand, target, tolerance=0.25)),
            "reaches": (1.5, terms.near(hand, target, tolerance=0.05)),
            "action_change": (-0.05, terms.action_change),
            "effort": (-1e-4, terms.effort),
        },
        "ends": {"hits_floor": hits_floor},
        "metrics": {"distance": terms.apart(hand, target), "reached": reached},
        "start": robot.Start(joints=0.3, velocities=0.1),
        "command": robot.Command(
            {"x": (0.25, 0.42), "y": (-0.3, 0.3), "z": (0.2, 0.42), "round": (-2.0, 2.0)}, seconds=4.0, still=0.0
        ),
        "varies": [
            robot.Vary("body_mass", 0.8, 1.2, along=[("body_inertia", None)]),
            robot.Vary("dof_damping", 0.5, 2.0),
            robot.Vary("actuator_gainprm", 0.9, 1.1, column=0, along=[("actuator_biasprm", 2)]),
        ],
        "mark": target,
    }
    return robot.Task(**(declared | changes))  # type: ignore[arg-type]

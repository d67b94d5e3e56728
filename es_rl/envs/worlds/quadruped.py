"""es_rl/Quadruped-v0: a four-legged robot of 12 kg follows a velocity command on flat ground.

Actions: position targets of 12 joints about the standing pose. Command: forward and sideways velocity in metres per
second, turning rate in radians per second. An episode ends when the trunk tilts by more than a radian or sinks.
"""

from __future__ import annotations

from pathlib import Path

from es_rl.envs import robot
from es_rl.envs.robot import terms

MODEL = Path(__file__).with_name("quadruped.xml")


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
        },
        "rewards": {
            "follows": (1.0, terms.follows([0, 1], terms.velocity, [0, 1], tolerance=0.4)),
            "goes": (1.0, terms.goes_along([0, 1], terms.velocity, [0, 1], least=0.3)),
            "turns": (1.0, terms.follows([2], terms.turning, [2], tolerance=0.5)),
            "alive": (0.2, terms.alive),
            "effort": (-1e-4, terms.effort),
            "action_change": (-0.004, terms.action_change),
            "shaking": (-0.1, terms.shaking),
            "leaning": (-1.0, terms.leaning),
            "stance": (-0.2, terms.away_from("stand")),
            "spread": (-0.5, terms.away_from("stand", "*_roll")),
        },
        "ends": {"tilted": terms.tilted(0.8), "sunk": terms.lower_than(0.16)},
        "metrics": {
            "velocity_error": terms.misses([0, 1], terms.velocity, [0, 1]),
            "turning_error": terms.misses([2], terms.turning, [2]),
        },
        "start": robot.Start(keyframe="stand", joints=0.1, velocities=0.3, turn=3.14),
        "command": robot.Command({"forward": (-0.5, 1.5), "sideways": (-0.3, 0.3), "turn": (-1.0, 1.0)}),
        "varies": [
            robot.Vary("geom_friction", 0.5, 1.3, column=0, together=True),
            robot.Vary("body_mass", 0.85, 1.15, along=[("body_inertia", None)]),
            robot.Vary("dof_damping", 0.7, 1.3, names="*_*"),
            robot.Vary("actuator_gainprm", 0.9, 1.1, column=0, together=True, along=[("actuator_biasprm", 1)]),
        ],
        "push": robot.Push(seconds=(4.0, 8.0), speed=0.4),
    }
    return robot.Task(**(declared | changes))  # type: ignore[arg-type]

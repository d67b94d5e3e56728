"""What a program on a robot must know to feed a policy and to obey it: numbers of the declaration and of the model."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from es_rl.envs.robot.task import Observe, Task
from es_rl.envs.robot.vector import RobotVector
from es_rl.envs.robot.world import names


def deployment(task: Task) -> dict[str, Any]:
    """Return a task as JSON values: its rate, its actions and its observations, in the order of their numbers.

    The control of an actuator is `rest` + `scale` · action, and then kept within `control_range`; actions lie in
    [−1, 1]. With the `gear` of an actuator, its length is gear · joint, and the torque (or force) at the joint is
    gear · force. `stiffness` and `damping` are those of a position actuator, per unit of its length and per unit of its
    speed; 0 for a motor. `joint_force_range` limits the sum of all forces of actuators at the joint. The numbers of an
    observation are scale · value, kept within ± `clip`, with `history` values of a term one after another, the oldest
    first.
    """
    simulation = RobotVector(task, 1, randomise=False)
    model = simulation.model
    return {
        "step_seconds": task.step_seconds,
        "joints": [name for name, kind in zip(names(model, "joint"), model.jnt_type, strict=True) if _moves(kind)],
        "actions": [_action(simulation, i) for i in range(model.nu)],
        "action_delay": task.actions.delay,
        "observations": _observations(task, simulation),
        "command": {k: list(map(float, v)) for k, v in task.command.ranges.items()} if task.command else {},
    }


def _moves(kind: Any) -> bool:
    """Tell whether a joint of this kind is a hinge or a slide, which an actuator moves."""
    return int(kind) in (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE)


def _action(simulation: RobotVector, i: int) -> dict[str, Any]:
    model, joint = simulation.model, int(simulation.model.actuator_trnid[i, 0])
    of_joint = int(model.actuator_trntype[i]) == mujoco.mjtTrn.mjTRN_JOINT
    affine = int(model.actuator_biastype[i]) == mujoco.mjtBias.mjBIAS_AFFINE
    return {
        "actuator": names(model, "actuator")[i],
        "joint": names(model, "joint")[joint] if of_joint else None,
        "rest": float(simulation.rest[i]),
        "scale": float(simulation.scale[i]),
        "gear": float(model.actuator_gear[i, 0]),
        "stiffness": 0.0 - float(model.actuator_biasprm[i, 1]) if affine else 0.0,
        "damping": 0.0 - float(model.actuator_biasprm[i, 2]) if affine else 0.0,
        "control_range": _range(model.actuator_ctrllimited[i], model.actuator_ctrlrange[i]),
        "force_range": _range(model.actuator_forcelimited[i], model.actuator_forcerange[i]),
        "joint_force_range": _range(model.jnt_actfrclimited[joint], model.jnt_actfrcrange[joint]) if of_joint else None,
    }


def _range(limited: Any, ends: Any) -> list[float] | None:
    return [float(end) for end in ends] if limited else None


def _observations(task: Task, simulation: RobotVector) -> list[dict[str, Any]]:
    found, first = [], 0
    for name, term in task.observations.items():
        o = term if isinstance(term, Observe) else Observe(term)
        width = simulation.widths[name]
        found.append(
            {
                "name": name, "first": first, "numbers": width, "history": o.history, "delay": o.delay,
                "scale": float(o.scale), "clip": None if np.isinf(o.clip) else float(o.clip),
            }
        )  # fmt: skip
        first += width * o.history
    return found

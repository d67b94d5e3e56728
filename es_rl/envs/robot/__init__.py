"""Declare a robot's task: its model, actions, observations, rewards, ends, commands and randomised physics.

    from es_rl.envs import robot
    from es_rl.envs.robot import terms

    robot.register("Walk-v0", robot.Task(
        model="my_robot.xml",
        actions=robot.Actions(scale=0.5, about="stand"),
        observations={"joints": terms.joint_positions, "gravity": robot.Observe(terms.gravity, noise=0.05)},
        rewards={"upright": (1.0, terms.upright), "effort": (-1e-4, terms.effort)},
        ends={"fallen": terms.lower_than(0.25)},
        start=robot.Start(keyframe="stand", joints=0.1),
    ))

`python -m es_rl.train env=my_module:Walk-v0` trains it at the speed of the physics. The id is also a Gymnasium
environment, equal to one simulation of the fast one to the last bit.
"""

from es_rl.envs.curriculum import Curriculum
from es_rl.envs.gymnasium_backend import take_mujoco_warnings
from es_rl.envs.robot.deployment import deployment
from es_rl.envs.robot.env import RobotEnv, register
from es_rl.envs.robot.task import Actions, Command, Ground, Observe, Push, Start, Task, Vary
from es_rl.envs.robot.world import World

__all__ = [
    "Actions",
    "Command",
    "Curriculum",
    "Ground",
    "Observe",
    "Push",
    "RobotEnv",
    "Start",
    "Task",
    "Vary",
    "World",
    "deployment",
    "register",
]

take_mujoco_warnings()  # here, since a worker makes simulations without Gymnasium's environment

"""A quadruped on small ground whose curriculum always rises."""

from es_rl.envs import robot
from es_rl.envs.worlds import quadruped_terrain

GROUND = robot.Ground(kinds=("slope", "blocks"), levels=3, side=4.0)
TASK = quadruped_terrain.task(ground=GROUND, curriculum=robot.Curriculum("went", wanted=-10.0, step=0.25), seconds=0.6)
robot.register("Climb-v0", TASK)

"""A robot of one's own: two wheels that balance, drive and turn as they are told.

cd examples && python -m es_rl.train env=balancer:Balancer-v0 es.segment=64 minutes=2
"""

from es_rl.envs import robot
from es_rl.envs.robot import terms

MODEL = """
<mujoco model="balancer">
  <option timestep="0.005" integrator="implicitfast"/>
  <default><geom friction="0.9"/><joint damping="0.02"/></default>
  <asset>
    <texture name="tiles" type="2d" builtin="checker" rgb1=".6 .6 .6" rgb2=".5 .5 .5" width="99" height="99"/>
    <material name="tiles" texture="tiles" texrepeat="2 2" texuniform="true"/>
  </asset>
  <worldbody>
    <light pos="0 0 5" directional="true"/>
    <geom name="floor" type="plane" size="0 0 1" material="tiles"/>
    <body name="chassis" pos="0 0 0.1">
      <freejoint/>
      <site name="imu" pos="0 0 0.1"/>
      <geom type="box" size="0.04 0.08 0.12" pos="0 0 0.14" mass="2" rgba=".2 .4 .7 1"/>
      <body name="left" pos="0 0.11 0">
        <joint name="left" axis="0 1 0"/><geom type="cylinder" size="0.1 0.02" zaxis="0 1 0" mass="0.4"/>
      </body>
      <body name="right" pos="0 -0.11 0">
        <joint name="right" axis="0 1 0"/><geom type="cylinder" size="0.1 0.02" zaxis="0 1 0" mass="0.4"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="left" ctrlrange="-1.5 1.5"/><motor joint="right" ctrlrange="-1.5 1.5"/></actuator>
  <sensor><gyro name="gyro" site="imu"/></sensor>
</mujoco>
"""

TASK = robot.Task(
    model=MODEL,
    step_seconds=0.02,
    seconds=10.0,
    actions=robot.Actions(scale=1.5),  # newton metres
    observations={
        "gravity": robot.Observe(terms.gravity, noise=0.02),
        "gyro": robot.Observe(terms.sensor("gyro"), noise=0.05),
        "velocity": terms.velocity,
        "wheels": robot.Observe(terms.joint_velocities, scale=0.1),
        "command": terms.command,
    },
    rewards={  # weight for each second
        "drives": (2.0, terms.follows([0], terms.velocity, [0], tolerance=0.3)),
        "turns": (1.0, terms.follows([2], terms.turning, [1], tolerance=0.5)),
        "upright": (1.0, terms.upright),
        "action_change": (-0.05, terms.action_change),
    },
    ends={"fallen": terms.tilted(0.8)},
    start=robot.Start(velocities=0.1, turn=3.14),
    command=robot.Command({"drive": (-0.8, 0.8), "turn": (-1.5, 1.5)}, seconds=3.0),
    varies=[
        robot.Vary("body_mass", 0.8, 1.3, names="chassis"),
        robot.Vary("geom_friction", 0.6, 1.2, column=0, together=True),
    ],
    push=robot.Push(speed=0.3),
)
robot.register("Balancer-v0", TASK)

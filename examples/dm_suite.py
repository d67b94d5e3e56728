"""Tasks of dm_control's suite (Tassa et al. 2018) as fast environments: quadruped, humanoid and cheetah.

The models are those of the package dm_control, licensed under Apache-2.0: `pip install --no-deps dm_control`. It is not
imported. Observations, rewards and starts are declared here anew. After the same state and the same controls,
observations and rewards are those of dm_control, joined in its order. Only time
ends an episode, as there. What differs:

- Actions lie in [-1, 1]; the controls of the quadruped are scaled to the ranges of its motors.
- When an episode begins, the first accelerations and forces include the motors (dm_control leaves them out), and the
  cheetah has come to rest and has no velocity (dm_control keeps the little that is left).
- The floor is drawn without end.

cd examples && python -m es_rl.train env=dm_suite:suite/CheetahRun-v0 es.segment=64 minutes=5
"""

import warnings
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import mujoco
import numpy as np

from es_rl.envs import robot
from es_rl.envs.robot import terms
from es_rl.envs.robot.world import rotate_back
from es_rl.errors import EnvError

LEGS = ("front_left", "front_right", "back_right", "back_left")
LIMBS = ("left_hand", "left_foot", "right_hand", "right_foot")


def read(name):
    """Return a model of the suite, on a floor without end. Raises `EnvError` without the package."""
    package = find_spec("dm_control")
    if package is None or package.origin is None:
        raise EnvError("the package dm_control, with the models, is missing: pip install --no-deps dm_control")
    spec = mujoco.MjSpec.from_file(str(Path(package.origin).parent / "suite" / f"{name}.xml"))
    for geom in spec.geoms:
        if geom.type == mujoco.mjtGeom.mjGEOM_PLANE:
            geom.size = [0, 0, 0.5]  # all planes are infinite when something hits them; this one is drawn so too
    return spec


def sensors(*names):
    """Return a term: the values of some sensors."""
    return lambda w: np.concatenate([w.sensor(name) for name in names], axis=1)


def declare(model, step_seconds, seconds, observations, pose, factors, actions=robot.Actions()):  # noqa: B008
    """Return a task whose reward in a step is the product of some factors, each of which has a curve."""

    def product(w):
        return np.prod([factor(w) for factor in factors.values()], axis=0)

    return robot.Task(
        model=model, step_seconds=step_seconds, seconds=seconds, observations=observations, actions=actions,
        rewards={"product": (1 / step_seconds, product)}, metrics=factors, start=robot.Start(pose=pose),
    )  # fmt: skip


def compiled(spec):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the file of the cheetah has an attribute that MuJoCo will drop
        return spec.compile()


def touches(data):
    """Tell whether anything touches in the pose `qpos`."""
    mujoco.mj_kinematics(data.model, data)
    mujoco.mj_collision(data.model, data)
    return data.ncon > 0


# --- cheetah


def settled(model, source):
    """Return a random pose, after two seconds without control."""
    data, limited = mujoco.MjData(model), model.jnt_limited == 1
    data.qpos[limited] = source.uniform(*model.jnt_range[limited].T)
    mujoco.mj_step(model, data, 200)
    return data.qpos


def cheetah(speed):
    def runs(w):
        return terms.tolerance(w.sensor("torso_subtreelinvel")[:, 0], speed, margin=speed, at_margin=0, shape="linear")

    observations = {"position": lambda w: w.qpos[:, 1:], "velocity": lambda w: w.qvel}
    return declare(compiled(read("cheetah")), 0.01, 10.0, observations, settled, {"runs": runs})


# --- quadruped


def lying_anyhow(model, source):
    """Return the pose turned in any direction, as low as nothing touches."""
    data, turned = mujoco.MjData(model), source.normal(size=4)
    data.qpos[3:7], data.qpos[2] = turned / np.linalg.norm(turned), 0.0
    while touches(data):
        data.qpos[2] += 0.01  # metres
    return data.qpos


def quadruped_model():
    spec = read("quadruped")
    things = [spec.geom(f"wall_{side}") for side in ("px", "py", "nx", "ny")] + [spec.geom("terrain")]
    for thing in [*things, spec.body("ball"), spec.site("target")]:
        spec.delete(thing)
    for sensor in [s for s in spec.sensors if s.name.startswith("rf_")]:
        spec.delete(sensor)
    spec.add_key(name="middle", ctrl=[sum(motor.ctrlrange) / 2 for motor in spec.actuators])
    return compiled(spec)


def quadruped(speed):
    model = quadruped_model()

    def upright(w):
        return terms.tolerance(terms.upright(w), 1.0, margin=2.0, at_margin=0, shape="linear")

    def moves(w):
        return terms.tolerance(w.sensor("velocimeter")[:, 0], speed, margin=speed, at_margin=0.5, shape="linear")

    toes = sensors(*(f"{kind}_toe_{leg}" for kind in ("force", "torque") for leg in LEGS))
    observations = {
        "egocentric_state": lambda w: np.concatenate([w.qpos[:, 7:], w.qvel[:, 6:], w.act], axis=1),
        "torso_velocity": terms.sensor("velocimeter"),
        "torso_upright": terms.upright,
        "imu": sensors("imu_accel", "imu_gyro"),
        "force_torque": lambda w: np.arcsinh(toes(w)),
    }
    low, high = model.actuator_ctrlrange.T
    actions = robot.Actions(scale=(high - low) / 2, about="middle")
    return declare(model, 0.02, 20.0, observations, lying_anyhow, {"upright": upright, "moves": moves}, actions)


# --- humanoid


def any_pose(model, source):
    """Return a pose in which nothing touches: joints anywhere in their ranges, turned anyhow, 1.5 m up."""
    data = mujoco.MjData(model)
    while True:
        turned = source.random(4)
        data.qpos[3:7], data.qpos[7:] = turned / np.linalg.norm(turned), source.uniform(*model.jnt_range[1:].T)
        if not touches(data):
            return data.qpos


def extremities(w):
    """Return where hands and feet are, in the frame of the torso."""
    torso = w.xpos[:, w.body("torso")]
    places = [rotate_back(w.qpos[:, 3:7], w.xpos[:, w.body(limb)] - torso) for limb in LIMBS]
    return np.concatenate(places, axis=1)


def humanoid(speed):
    def stands(w):
        return terms.tolerance(w.xpos[:, w.body("head"), 2], 1.4, margin=0.35)

    def upright(w):
        return terms.tolerance(terms.upright(w), 0.9, margin=1.9, at_margin=0, shape="linear")

    def spares(w):
        return (4 + terms.tolerance(w.ctrl, 0.0, 0.0, margin=1.0, at_margin=0, shape="quadratic").mean(axis=1)) / 5

    def moves(w):
        pace = np.hypot(*w.sensor("torso_subtreelinvel").T[:2])
        return (5 * terms.tolerance(pace, speed, margin=speed, at_margin=0, shape="linear") + 1) / 6

    observations = {
        "joint_angles": lambda w: w.qpos[:, 7:],
        "head_height": lambda w: w.xpos[:, w.body("head"), 2],
        "extremities": extremities,
        "torso_vertical": lambda w: -terms.gravity(w),
        "com_velocity": terms.sensor("torso_subtreelinvel"),
        "velocity": lambda w: w.qvel,
    }
    factors = {"stands": stands, "upright": upright, "spares": spares, "moves": moves}
    return declare(compiled(read("humanoid")), 0.025, 25.0, observations, any_pose, factors)


TASKS = {
    "CheetahRun": partial(cheetah, 10.0),
    "QuadrupedWalk": partial(quadruped, 0.5), "QuadrupedRun": partial(quadruped, 5.0),
    "HumanoidWalk": partial(humanoid, 1.0), "HumanoidRun": partial(humanoid, 10.0),
}  # fmt: skip
for name, make in TASKS.items():
    robot.register(f"suite/{name}-v0", make())

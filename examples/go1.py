"""A real robot: Unitree's Go1, 12 kg, follows a velocity command. Its task is that of es_rl/Quadruped-v0.

The model is that of the package mjlab, licensed under Apache-2.0: `pip install --no-deps mjlab`. It has neither motors
nor a floor, so they are added here. Of the robot, the feet alone touch the ground.

cd examples && python -m es_rl.train env=go1:Go1-v0 config=go1.yaml env_steps=3000000
"""

from importlib.util import find_spec
from pathlib import Path

import mujoco

from es_rl.envs import robot
from es_rl.envs.robot import terms
from es_rl.envs.worlds import quadruped
from es_rl.errors import EnvError

STAND = {"hip": 0.0, "thigh": 0.9, "calf": -1.8}  # radians
HEIGHT = 0.27  # of the trunk in this pose, in metres
STRENGTH = {"hip": 23.7, "thigh": 23.7, "calf": 35.55}  # newton metres, as the maker states
STIFFNESS, DAMPING, ARMATURE = 35.0, 0.8, 0.006  # newton metres per radian and per radian/second; kg m²


def model() -> mujoco.MjModel:
    """Return the model with a floor, position motors and a standing pose. Raises `EnvError` without the package."""
    package = find_spec("mjlab")
    if package is None or package.origin is None:
        raise EnvError("the package mjlab, with the model of Go1, is missing: pip install --no-deps mjlab")
    file = Path(package.origin).parent / "asset_zoo/robots/unitree_go1/xmls/go1.xml"
    spec = mujoco.MjSpec.from_file(str(file))
    spec.option.timestep, spec.option.iterations, spec.option.ls_iterations = 0.004, 10, 8
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    for geom in spec.geoms:
        foot = geom.name.endswith("foot_collision")
        geom.contype, geom.conaffinity, geom.friction[0] = 0, int(foot), 0.8
    add_scene(spec)
    for joint in spec.joints[1:]:  # the first is the free root
        part = joint.name.split("_")[1]
        joint.armature, joint.damping[0] = ARMATURE, DAMPING
        motor = spec.add_actuator(name=joint.name, target=joint.name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        motor.set_to_position(kp=STIFFNESS)
        motor.forcerange, motor.ctrlrange = [-STRENGTH[part], STRENGTH[part]], joint.range
    pose = [*STAND.values()] * 4
    spec.add_key(name="stand", qpos=[0, 0, HEIGHT, 1, 0, 0, 0, *pose], ctrl=pose)
    return spec.compile()


def add_scene(spec: mujoco.MjSpec) -> None:
    """Add a floor without end, in tiles, a sky and light."""
    kinds, builtin = mujoco.mjtTexture, mujoco.mjtBuiltin
    sky = {"type": kinds.mjTEXTURE_SKYBOX, "builtin": builtin.mjBUILTIN_GRADIENT, "width": 64, "height": 512}
    tiles = {"type": kinds.mjTEXTURE_2D, "builtin": builtin.mjBUILTIN_CHECKER, "width": 300, "height": 300}
    spec.add_texture(name="sky", rgb1=[0.75, 0.85, 0.95], rgb2=[0.3, 0.45, 0.65], **sky)
    spec.add_texture(name="tiles", rgb1=[0.62, 0.64, 0.6], rgb2=[0.5, 0.53, 0.5], **tiles)
    spec.add_material(name="tiles", textures=["", "tiles"], texrepeat=[4, 4], texuniform=True)
    spec.worldbody.add_geom(
        name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 0.1], material="tiles", friction=[0.8, 0.02, 0.01]
    )
    spec.visual.headlight.ambient, spec.visual.headlight.diffuse = [0.4] * 3, [0.6] * 3
    spec.visual.global_.offwidth, spec.visual.global_.offheight = 1280, 720


REWARDS = {**quadruped.task().rewards, "spread": (-0.5, terms.away_from("stand", "*_hip_joint"))}  # its joints' names
robot.register("Go1-v0", quadruped.task(model=model(), rewards=REWARDS))

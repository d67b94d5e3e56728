"""What a robot needs to know is complete: with these numbers alone, plain MuJoCo moves as the declared task does."""

import json

import gymnasium
import mujoco
import numpy as np
import pytest

from es_rl.envs import robot
from es_rl.envs.robot import terms
from es_rl.envs.worlds import WORLDS, quadruped


@pytest.fixture(scope="module")
def known():
    return json.loads(
        json.dumps(
            robot.deployment(
                quadruped.task(),
            )
        )
    )


def test_the_numbers_are_those_of_the_model_and_of_the_declaration(known):
    first = known["actions"][2]
    assert first == {
        "actuator": "front_left_knee", "joint": "front_left_knee", "rest": -1.6, "scale": 0.4, "stiffness": 45.0,
        "damping": 0.8, "gear": 1.0, "control_range": [-2.6, -0.6], "force_range": [-28.0, 28.0],
        "joint_force_range": None,
    }  # fmt: skip
    assert (
        known["joints"][:3] == ["front_left_roll", "front_left_pitch", "front_left_knee"] and len(known["joints"]) == 12
    )
    assert [o["name"] for o in known["observations"]] == list(quadruped.task().observations)
    assert known["observations"][1] == {
        "name": "turning", "first": 3, "numbers": 3, "history": 1, "delay": 0, "scale": 0.25, "clip": None,
    }  # fmt: skip
    assert known["command"]["forward"] == [-0.5, 1.5] and known["step_seconds"] == 0.02


def test_a_drone_has_actuators_without_joints():
    model = """<mujoco><worldbody><body name="drone"><freejoint/><geom size="0.1"/>
        <site name="left" pos="0 0.1 0"/><site name="right" pos="0 -0.1 0"/></body></worldbody>
        <actuator><motor name="left" site="left" gear="0 0 1 0 0 0"/><motor name="right" site="right"/></actuator>
        </mujoco>"""
    task = robot.Task(model, {"gravity": terms.gravity}, {"alive": (1.0, terms.alive)})
    found = robot.deployment(task)["actions"]
    assert [(one["actuator"], one["joint"], one["joint_force_range"]) for one in found] == [
        ("left", None, None), ("right", None, None),
    ]  # fmt: skip


def test_plain_mujoco_obeys_actions_as_they_are_told(known):
    """A program that knows these numbers and the model alone sees what the policy would see."""
    env = gymnasium.make("es_rl/Quadruped-v0", randomise=False).unwrapped
    obs, _ = env.reset(seed=3)
    data = mujoco.MjData(env.model)
    env.copy_to(data)
    ids = [env.model.actuator(one["actuator"]).id for one in known["actions"]]
    parts = {
        o["name"]: (slice(o["first"], o["first"] + o["numbers"] * o["history"]), o["scale"])
        for o in known["observations"]
    }
    for action in np.random.default_rng(0).uniform(-1.5, 1.5, (25, 12)):
        data.ctrl[ids] = [
            one["rest"] + one["scale"] * np.clip(a, -1, 1) for one, a in zip(known["actions"], action, strict=True)
        ]
        for _ in range(round(known["step_seconds"] / env.model.opt.timestep)):
            mujoco.mj_step(env.model, data)
        obs = env.step(action)[0]
        joints = np.array([data.joint(name).qpos[0] for name in known["joints"]])
        rates = np.array([data.joint(name).qvel[0] for name in known["joints"]])
        where, scale = parts["joints"]
        assert np.allclose(obs[where], scale * (joints - env.model.qpos0[7:]), atol=1e-9)
        where, scale = parts["rates"]
        assert np.allclose(obs[where], scale * rates, atol=1e-9)


def test_history_has_its_place_and_motors_have_no_stiffness():
    told = robot.deployment(
        quadruped.task(observations={
            "past": robot.Observe(terms.action, history=3, delay=1, clip=2.0), "up": terms.upright,
        })
    )  # fmt: skip
    limited = quadruped.MODEL.read_text().replace(
        '<joint armature="0.012"', '<joint actuatorfrcrange="-3 3" armature="0.012"'
    )
    geared = limited.replace('<position kp="45"', '<position gear="5" kp="45"')
    action = robot.deployment(quadruped.task(model=geared))["actions"][0]
    assert (action["gear"], action["stiffness"], action["joint_force_range"]) == (5.0, 45.0, [-3.0, 3.0])
    past, up = told["observations"]
    assert (past["first"], past["numbers"], past["history"], past["delay"], past["clip"]) == (0, 12, 3, 1, 2.0)
    assert (up["first"], up["numbers"]) == (36, 1)


@pytest.mark.parametrize("name", WORLDS)
def test_every_robot_of_the_package_tells_it(name):
    told = robot.deployment(gymnasium.make(name).unwrapped.task)
    last = told["observations"][-1]
    assert last["first"] + last["numbers"] * last["history"] == gymnasium.make(name).observation_space.shape[0]
    assert json.loads(json.dumps(told, allow_nan=False)) == told

"""Declared robots: one simulation of the batch is the Gymnasium environment, worlds belong to the seed, errors name."""

import json
import re
from functools import partial
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
from conftest import comparable, metrics, model_hash, refusal
from mujoco.batch import SimulationError

from es_rl import envs
from es_rl.envs import robot
from es_rl.envs.robot import terms
from es_rl.envs.robot.ground import Terrain
from es_rl.envs.robot.vector import RobotVector
from es_rl.envs.robot.world import rotate_back
from es_rl.envs.worlds import WORLDS, arm, quadruped
from es_rl.errors import ConfigError, EnvError
from es_rl.evaluate import main as evaluate
from es_rl.train import main as training

CART = """
<mujoco model="cart"><option timestep="0.01"/>
  <worldbody><body name="cart"><joint name="slide" type="slide" axis="1 0 0" range="-2 2"/><geom name="box" size=".1" mass="1"/>
    <body name="pole"><joint name="hinge" axis="0 1 0"/><geom name="rod" type="capsule" fromto="0 0 0 0 0 .6" size=".03"/></body>
  </body></worldbody>
  <actuator><motor name="push" joint="slide" gear="20"/></actuator>
  <sensor><jointpos name="angle" joint="hinge"/></sensor>
  <keyframe><key name="leaning" qpos="0 0.3"/></keyframe>
</mujoco>
"""


def cart(**changes):
    declared = {
        "model": CART,
        "observations": {
            "angle": robot.Observe(terms.sensor("angle"), noise=0.01, history=3),
            "late": robot.Observe(terms.joint_velocities, delay=2, clip=5.0, scale=0.5),
            "command": terms.command,
        },
        "rewards": {"upright": (1.0, lambda w: np.cos(w.qpos[:, 1])), "action": (-0.1, terms.action_change)},
        "ends": {"fallen": lambda w: np.abs(w.qpos[:, 1]) > 0.8},
        "metrics": {"off": lambda w: np.abs(w.qpos[:, 0] - w.command[:, 0])},
        "actions": robot.Actions(delay=1),
        "start": robot.Start(joints=0.1, velocities=0.1),
        "command": robot.Command({"place": (-1.0, 1.0)}, seconds=0.5),
        "varies": [robot.Vary("body_mass", 0.5, 2.0, names="pole"), robot.Vary("dof_damping", 0.0, 0.2, how="add")],
        "seconds": 2.0,
    }
    return robot.Task(**(declared | changes))


@pytest.fixture(autouse=True, scope="module")
def registered():
    robot.register("Cart-v0", cart())
    yield
    del gymnasium.registry["Cart-v0"]


@pytest.mark.parametrize("name", ["Cart-v0", *WORLDS])
@pytest.mark.slow
def test_one_of_many_is_the_gymnasium_environment_to_the_last_bit(name):
    n, steps, rng = 6, 150, np.random.default_rng(0)
    many = envs.make(name, n)
    assert isinstance(many, RobotVector)
    singles = [gymnasium.make(name) for _ in range(n)]
    obs = many.reset(range(n), range(10, 10 + n))
    assert np.array_equal(obs, [env.reset(seed=10 + i)[0] for i, env in enumerate(singles)])
    actions = rng.uniform(-1.2, 1.2, (steps, n, *singles[0].action_space.shape)).astype(np.float32)
    ended, running = 0, np.arange(n)
    for t in range(steps):
        some = rng.permutation(running)[: rng.integers(1, n + 1)]
        found = many.step(some, actions[t, some])
        for row, i in enumerate(some):
            one = singles[i].step(actions[t, i])
            assert np.array_equal(found[0][row], one[0]) and all(found[k][row] == one[k] for k in (1, 2, 3))
            if one[2] or one[3] or t % 50 == 49:  # the last: an arm hardly ever ends an episode
                ended += 1
                assert np.array_equal(many.reset([i], [t])[0], singles[i].reset(seed=t)[0])
    assert ended and len(np.unique(obs)) > n


@pytest.mark.parametrize("name", WORLDS)
def test_a_world_rests_in_its_pose_and_none_of_its_observations_is_constant(name):
    n, rng = 4, np.random.default_rng(0)
    calm = envs.make(name, 1, randomise=False)
    calm.reset([0], [0])
    data = mujoco.MjData(calm.model)
    for _ in range(40):
        assert not calm.step([0], np.zeros((1, calm.model.nu)))[2][0]
        calm.data(0, data)
        mujoco.mj_forward(calm.model, data)
        assert data.contact.dist.min(initial=0.0) > -0.005  # metres
    assert np.abs(calm._fields["qvel"][0, :2]).max() < 0.5  # of what stands: it neither falls nor flies away
    many = envs.make(name, n)
    seen = [many.reset(range(n), range(n))]
    seen += [many.step(range(n), rng.uniform(-1, 1, (n, many.model.nu)))[0] for _ in range(30)]
    assert (np.ptp(np.concatenate(seen), axis=0) > 0).all()


def test_the_place_of_a_target_is_marked():
    env = envs.make("es_rl/Arm-v0", 3)
    env.reset(range(3), range(3))
    for t in range(3):
        env.step([1], np.zeros((1, 6)))
        told = env.command(1)
        angle = told["round"] * 0.02 * (t + 1)
        place = told["x"], told["y"] + arm.RADIUS * np.cos(angle), told["z"] + arm.RADIUS * np.sin(angle)
        np.testing.assert_allclose(env.mark(1), place)
    hand = env._fields["site_xpos"][:, env.model.site("hand").id]
    off = np.sqrt(np.square(hand - [env.mark(i) for i in range(3)]).sum(axis=1))
    w = env._world(env._everyone)
    np.testing.assert_allclose(terms.apart(arm.hand, arm.target)(w), off)
    np.testing.assert_allclose(terms.near(arm.hand, arm.target, 0.2)(w), np.exp(-np.square(off / 0.2)))
    assert envs.make("es_rl/Quadruped-v0", 1).mark(0) is None


def test_other_trainers_get_the_same_robots():
    fast = envs.make_vec("Cart-v0", 3)
    slow = gymnasium.vector.SyncVectorEnv([partial(gymnasium.make, "Cart-v0")] * 3)
    assert np.array_equal(fast.reset(seed=1)[0], slow.reset(seed=1)[0])
    rng, ended = np.random.default_rng(0), 0
    for _ in range(250):
        actions = rng.uniform(-1, 1, (3, 1)).astype(np.float32)
        found, expected = fast.step(actions), slow.step(actions)
        assert all(np.array_equal(a, b) for a, b in zip(found[:4], expected[:4], strict=True))
        ended += int((found[2] | found[3]).sum())
    assert ended > 3


@pytest.mark.parametrize("name", ["Cart-v0", *WORLDS])
def test_a_saved_robot_goes_on_elsewhere_to_the_same_bits(name):
    n, rng = 5, np.random.default_rng(0)
    one, other = envs.make(name, n), envs.make(name, n + 2)
    assert isinstance(one, envs.Savable)
    one.reset(range(n), range(n))
    other.reset(range(n + 2), range(50, 57))
    actions = rng.uniform(-1, 1, (160, n, one.model.nu))
    for action in actions[:70]:  # beyond the first block of noise
        one.step(range(n), action)
    ids = np.array([6, 0, 3, 2, 4])
    other.step(range(n + 2), np.zeros((n + 2, one.model.nu)))
    other.restore(ids, one.save(range(n)))
    assert np.array_equal(other.save(ids), one.save(range(n)))
    for action in actions[70:]:
        for a, b in zip(one.step(range(n), action), other.step(ids, action), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_world_belongs_to_its_seed_and_can_be_left_out():
    vector = envs.make("Cart-v0", 4)
    vector.reset(range(4), [3, 3, 4, 5])
    mass = vector._episodes.fields["body_mass"]
    default = vector.model.body_mass
    assert np.array_equal(mass[0], mass[1]) and len(np.unique(mass[:, 2])) == 3
    assert np.array_equal(mass[:, :2], np.broadcast_to(default[:2], (4, 2)))
    assert (mass[:, 2] >= 0.5 * default[2]).all() and (mass[:, 2] <= 2 * default[2]).all()
    nominal = envs.make("Cart-v0", 2, randomise=False)
    obs = nominal.reset([0, 1], [3, 4])
    assert not nominal._episodes.fields and np.array_equal(obs[:, 0], obs[:, 2])
    assert obs[0, 0] == nominal._fields["qpos"][0, 1]  # without noise


@pytest.mark.parametrize("name", ["es_rl/Quadruped-v0", "es_rl/QuadrupedTerrain-v0", "Cart-v0"])
def test_an_episode_does_not_depend_on_what_was_played_before(name):
    """Not on its noise either, which is drawn again every 64 steps."""
    used, fresh = envs.make(name, 1), envs.make(name, 1)
    used.reset([0], [7])
    actions = np.random.default_rng(0).uniform(-1, 1, (90, 1, used.model.nu))
    for action in actions:
        used.step([0], action)
    assert np.array_equal(used.reset([0], [8]), fresh.reset([0], [8]))
    for action in actions:
        for ours, theirs in zip(used.step([0], action), fresh.step([0], action), strict=True):
            assert np.array_equal(ours, theirs)


def test_fields_along_another_vary_with_it():
    """A heavier body is as much harder to turn, and a servo of another gain holds its target."""
    vector = RobotVector(quadruped.task(push=None), 5)
    vector.reset(range(5), range(5))
    fields, model = vector._episodes.fields, vector.model
    mass = fields["body_mass"][:, 1:] / model.body_mass[1:]
    assert np.allclose(fields["body_inertia"][:, 1:] / model.body_inertia[1:], mass[..., None]) and np.ptp(mass) > 0.1
    gain = fields["actuator_gainprm"][..., 0] / model.actuator_gainprm[:, 0]
    assert np.allclose(fields["actuator_biasprm"][..., 1] / model.actuator_biasprm[:, 1], gain) and np.ptp(gain) > 0.05
    assert np.array_equal(fields["actuator_biasprm"][..., 2], np.tile(model.actuator_biasprm[:, 2], (5, 1)))
    one, other = (
        {"varies": [robot.Vary("body_mass", 0.5, 2.0, along=along)]} for along in ((), [("body_inertia", None)])
    )
    plain, along = (RobotVector(cart(**more), 1) for more in (one, other))
    for v in (plain, along):
        v.reset([0], [3])
    assert np.array_equal(plain._episodes.fields["body_mass"], along._episodes.fields["body_mass"])


def test_an_episode_begins_about_its_keyframe():
    start = robot.Start(keyframe="leaning", joints=0.1, velocities=0.2)
    env = RobotVector(cart(start=start), 64)
    env.reset(range(64), range(64))
    qpos, qvel = env._fields["qpos"] - np.array([0, 0.3]), env._fields["qvel"]
    for values, size in ((qpos, 0.1), (qvel, 0.2)):
        assert (np.abs(values) <= size).all()
        assert (values.max(axis=0) > 0.8 * size).all() and (values.min(axis=0) < -0.8 * size).all()
    free = RobotVector(quadruped.task(start=robot.Start("stand", joints=0.1, place=1.0, turn=3.14)), 64)
    free.reset(range(64), range(64))
    qpos = free._fields["qpos"]
    assert (qpos[:, :2].std(axis=0) > 0.4).all() and (qpos[:, 2] == 0.305).all()
    headings = 2 * np.arctan2(qpos[:, 6], qpos[:, 3])
    assert headings.std() > 1.2 and (qpos[:, 4:6] == 0).all() and (qpos[:, 7:].std(axis=0) > 0.04).all()


def test_a_robot_is_told_how_far_it_leans_and_how_far_its_joints_are_from_a_pose():
    env = RobotVector(quadruped.task(), 2)
    env.reset([0, 1], [0, 1])
    stand, q = env.model.key_qpos[0], env._fields["qpos"]
    q[0], q[1] = stand, stand
    q[1, 3:7] = np.cos(0.1), np.sin(0.1), 0, 0  # rolled by 0.2
    q[1, [7, 8, 12]] += 0.1, 0.2, -0.3  # a roll, a pitch, a knee
    w = env._world(env._everyone)
    assert np.allclose(terms.leaning(w), [0.0, np.sin(0.2) ** 2])
    assert np.allclose(terms.away_from("stand")(w), [0.0, 0.01 + 0.04 + 0.09])
    assert np.allclose(terms.away_from("stand", "*_roll")(w), [0.0, 0.01])
    with pytest.raises(EnvError, match="joints \\*_rol: the model has none of this name"):
        terms.away_from("stand", "*_rol")(w)
    with pytest.raises(EnvError, match="key stnd"):
        terms.away_from("stnd")(w)


def test_an_episode_begins_as_an_own_function_says():
    def crooked(model, source):
        return np.array([1.0, source.uniform(-0.5, 0.5)])

    env = RobotVector(cart(start=robot.Start(pose=crooked, velocities=0.1)), 8)
    env.reset(range(8), [0, *range(7)])
    qpos, qvel = env._fields["qpos"], env._fields["qvel"]
    assert (qpos[:, 0] == 1.0).all() and len(np.unique(qpos[:, 1])) == 7 and qpos[0, 1] == qpos[1, 1]
    assert (np.abs(qvel) <= 0.1).all() and qvel.std() > 0.02


def test_tolerance_falls_from_one_to_its_value_at_the_margin():
    value = np.array([-3.0, -1.0, 0.0, 0.5, 2.0, 2.5, 3.0, 4.0])  # between 0 and 2, it is right
    find = partial(terms.tolerance, value, 0.0, 2.0)
    assert find().tolist() == [0, 0, 1, 1, 1, 0, 0, 0]
    assert np.allclose(find(margin=1.0), [0.1**9, 0.1, 1, 1, 1, 0.1**0.25, 0.1, 0.1**4])
    assert np.allclose(find(margin=1.0, at_margin=0.5, shape="linear"), [0, 0.5, 1, 1, 1, 0.75, 0.5, 0])
    assert np.allclose(find(margin=2.0, at_margin=0.0, shape="quadratic"), [0, 0.75, 1, 1, 1, 0.9375, 0.75, 0])
    assert terms.tolerance(np.array([9.0]), 1.0, margin=1.0).tolist() == [1.0]  # no upper end
    with pytest.raises(ConfigError, match=r"shape=gausian: unknown. Did you mean gaussian"):
        find(margin=1.0, shape="gausian")


def test_history_delay_scale_and_clip():
    vector = envs.make("Cart-v0", 1, randomise=False)
    obs = [vector.reset([0], [1])[0]]
    truth = [vector._fields["qvel"][0].copy()]
    angle = [vector._fields["qpos"][0, 1]]
    for _ in range(20):
        obs.append(vector.step([0], [[1.0]])[0][0])
        truth.append(vector._fields["qvel"][0].copy())
        angle.append(vector._fields["qpos"][0, 1])
    assert obs[10][:3].tolist() == angle[8:11]
    assert obs[10][3:5].tolist() == np.clip(0.5 * truth[8], -5, 5).tolist()
    assert obs[0][:3].tolist() == [angle[0]] * 3


def test_commands_change_after_their_seconds_and_actions_come_late():
    vector = envs.make("Cart-v0", 1, randomise=False)
    seen = [vector.reset([0], [1])[0, -1]]
    for t in range(99):
        seen.append(vector.step([0], [[float(t == 0)]])[0][0, -1])
        if t < 3:
            assert vector._fields["ctrl"][0, 0] == float(t == 1)
    changes = np.flatnonzero(np.diff(seen)) + 1
    assert set(changes) <= {25, 50, 75} and len(changes) >= 2 and np.abs(seen).max() <= 1


def test_a_push_changes_the_velocity_of_the_root_only():
    task = quadruped.task(varies=(), push=robot.Push(seconds=(0.1, 0.1), speed=1.0))
    pushed, calm = RobotVector(task, 1), RobotVector(quadruped.task(varies=(), push=None), 1)
    for vector in (pushed, calm):
        vector.reset([0], [1])
    for t in range(8):
        for vector in (pushed, calm):
            vector.step([0], np.zeros((1, 12)))
        same = np.array_equal(pushed._fields["qvel"], calm._fields["qvel"])
        assert same == (t < 5)  # after 0.1 s


GROUND = robot.Ground(kinds=("flat", "slope", "stairs", "waves", "blocks"), levels=3, side=4.0)


def test_the_height_of_the_ground_is_what_a_ray_hits():
    env = RobotVector(quadruped.task(ground=GROUND), 1)
    data, terrain, geom = mujoco.MjData(env.model), Terrain(GROUND), np.zeros(1, np.int32)
    mujoco.mj_forward(env.model, data)
    x, y = np.random.default_rng(0).uniform(-12, 12, (2, 400))
    down = np.array([0.0, 0.0, -1.0])
    hit = [
        50 - mujoco.mj_ray(env.model, data, np.array([*p, 50.0]), down, None, 1, 1, geom)
        for p in zip(x, y, strict=True)
    ]
    assert np.allclose(terrain.height(x, y), hit, atol=1e-9) and 0.1 < np.mean(np.array(hit) > 0.01) < 0.9
    outside = (np.abs(x) > terrain.half[0]) | (np.abs(y) > terrain.half[1])
    assert (terrain.height(x, y)[outside] == 0).all() and outside.any()


@pytest.mark.parametrize("cell", [0.3, 0.45])
def test_patches_of_any_grid_are_flat_where_episodes_begin(cell):
    terrain = Terrain(robot.Ground(kinds=("slope", "blocks"), levels=4, side=4.0, cell=cell))
    places = terrain.places.reshape(-1, 3)
    for dx, dy in ((0.0, 0.0), (0.2, 0.0), (0.0, -0.2)):
        assert np.allclose(terrain.height(places[:, 0] + dx, places[:, 1] + dy), places[:, 2])


def test_the_command_after_the_last_step_is_that_of_the_last_step():
    task = cart(seconds=2.0, command=robot.Command({"speed": (-1.0, 1.0)}, seconds=0.75))
    vector = RobotVector(task, 1)
    vector.reset([0], [1])
    told = [vector.command(0)["speed"]]
    for _ in range(round(2.0 / task.step_seconds)):
        vector.step([0], [[0.0]])
        told.append(vector.command(0)["speed"])
    assert told[-1] == told[-2] != told[0] and len({*told}) == 3
    kept = RobotVector(cart(seconds=2.0, command=robot.Command({"speed": (-1.0, 1.0)}, seconds=1e6)), 1)
    kept.reset([0], [1])
    assert kept._episodes.commands.shape[1] == len(told) and len({*kept._episodes.commands[0, :, 0]}) == 1


def test_sensors_begin_with_the_control_of_the_action_0():
    vector = RobotVector(quadruped.task(varies=(), push=None), 1)
    vector.reset([0], [1])
    assert np.array_equal(vector._fields["ctrl"][0], vector.rest) and vector.rest.any()


def test_an_episode_that_cannot_begin_is_told_and_the_others_begin(monkeypatch):
    vector = RobotVector(cart(), 3)

    def forward(chosen):
        raise SimulationError(np.array([1]), "mass is zero")

    monkeypatch.setattr(vector, "_batch", Failing(vector._batch, forward))
    obs = vector.reset([0, 1, 2], [0, 1, 2])
    assert np.isnan(obs[1]).all() and np.isfinite(obs[[0, 2]]).all()
    assert [*vector.errors] == [1] and "an episode cannot begin: " in vector.errors[1]
    assert "mass is zero" in vector.errors[1]


def test_an_episode_that_could_not_begin_leaves_nothing_behind(monkeypatch):
    """The second reset succeeds, and its steps are not blamed for the first."""
    env = robot.RobotEnv(cart())

    def forward(chosen):
        raise SimulationError(np.array([0]), "mass is zero")

    with monkeypatch.context() as once:
        once.setattr(env._simulations, "_batch", Failing(env._simulations._batch, forward))
        assert np.isnan(env.reset(seed=0)[0]).all()
    assert np.isfinite(env.reset(seed=1)[0]).all() and np.isfinite(env.step(np.zeros(1, np.float32))[0]).all()


class Failing:
    """A batch that cannot compute."""

    def __init__(self, batch, forward):
        self._batch, self.forward = batch, forward

    def __getattr__(self, name):
        return getattr(self._batch, name)


def test_episodes_begin_on_the_flat_middle_of_any_patch():
    env, terrain = RobotVector(quadruped.task(ground=GROUND, observations={"h": terms.height}), 200), Terrain(GROUND)
    obs = env.reset(range(200), range(200))
    assert np.allclose(obs, 0.305)
    begun = {tuple(place) for place in np.round(env._fields["qpos"][:, :2], 6)}
    assert begun == {tuple(place) for place in np.round(terrain.places[..., :2].reshape(-1, 2), 6)}
    seen = terms.ground([-0.4, 0.0, 0.4], [0.0, 0.3])(env._world(env._everyone))
    assert seen.shape == (200, 6) and np.allclose(seen, 0.305, atol=1e-6)
    difficult = terrain.places[1:3, -1, :2]  # of slopes and stairs, whose middle is the highest place
    assert (terrain.height(*difficult.T) > terrain.height(*(difficult + 1.0).T) + 0.1).all()


def test_points_of_the_ground_turn_with_the_robot():
    env = RobotVector(quadruped.task(ground=GROUND), 1)
    env.reset([0], [0])
    env._fields["qpos"][0, :7] = (
        *(place := np.array([-3.0, 2.0])),
        5.0,
        np.cos(0.25 * np.pi),
        0,
        0,
        np.sin(0.25 * np.pi),
    )
    seen = terms.ground([0.0, 1.0], [0.5])(env._world(env._everyone))[0]  # it looks along y
    expected = [5 - Terrain(GROUND).height(*(place + np.array(off))) for off in ([-0.5, 0.0], [-0.5, 1.0])]
    assert np.allclose(seen, expected)


def writes(w):
    seen = w.qpos[:, 1:]
    seen -= 0.5
    return seen


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"model": "nowhere.xml"}, EnvError, "the robot's model: .*nowhere.xml"),
        ({"model": CART.replace("capsule", "capsul")}, EnvError, "the robot's model: .*capsul"),
        ({"observations": {"angle": terms.sensor("angel")}}, EnvError, "sensor angel: .*Did you mean angle"),
        (
            {"observations": {"odd": lambda w: np.zeros((3, 2))}},
            EnvError,
            r"the observation odd has the shape \(3, 2\)",
        ),
        ({"observations": {"odd": lambda w: w.qposs}}, EnvError, "qposs: MjData has no such field"),
        ({"rewards": {"odd": (1.0, terms.joint_positions)}}, EnvError, r"the reward odd has the shape \(2, 2\) for 2"),
        ({"ends": {"odd": lambda w: True}}, EnvError, "the end odd returns a bool, and must return an array"),
        ({"rewards": {"odd": (1.0, lambda w: [1.0, 2.0])}}, EnvError, "the reward odd returns a list"),
        ({"rewards": {"odd": (1.0, lambda w: w.nothing + 1)}}, EnvError, "nothing: MjData has no such field"),
        ({"rewards": {"odd": (1.0, lambda w: 1 / 0)}}, EnvError, "the reward odd raised ZeroDivisionError"),
        ({"observations": {"q": writes}}, EnvError, "the observation q raised ValueError: .*read-only"),
        ({"observations": {"q": "height"}}, ConfigError, "the observation q: must be a term"),
        ({"rewards": {"up": (np.nan, terms.alive)}}, ConfigError, "rewards.up=nan: must be a finite number"),
        ({"start": robot.Start(joints=np.nan)}, ConfigError, "start.joints=nan: must be a finite number"),
        ({"start": robot.Start(joints=-1.0)}, ConfigError, "start: the sizes of its noise"),
        ({"start": robot.Start(pose="leaning")}, ConfigError, "start: pose must be a function"),
        ({"start": robot.Start(pose=lambda m, s: m.qpos0, joints=0.1)}, ConfigError, "start: pose draws all of qpos"),
        (
            {"start": robot.Start(pose=lambda m, s: m.qpos0[:1])},
            EnvError,
            r"pose returns the shape \(1,\), and must return",
        ),
        ({"seconds": -1.0}, ConfigError, "an episode at least a step"),
        ({"step_seconds": 0.0}, ConfigError, "a step must take time"),
        ({"command": robot.Command({"x": (0, 1)}, still=7)}, ConfigError, "still between 0 and 1"),
        ({"command": robot.Command({"x": 1.0})}, ConfigError, "the command x: must be a range"),
        (
            {"actions": robot.Actions(delay=10**9)},
            ConfigError,
            "actions: delay=1000000000 must lie between 0 and an episode's 100 steps",
        ),
        ({"observations": {"a": robot.Observe(terms.action, delay=-1, history=2)}}, ConfigError, "delay=-1 and noise"),
        ({"observations": {"a": robot.Observe(terms.action, history=200)}}, ConfigError, "episode's 100 steps"),
        ({"actions": 0.4}, ConfigError, "actions: must be a robot.Actions, and is 0.4"),
        ({"start": None}, ConfigError, "start: must be a robot.Start, and is None"),
        ({"command": {"forward": (-1, 1)}}, ConfigError, "command: must be a robot.Command, and is"),
        ({"command": robot.Command(["forward"])}, ConfigError, "command: must have ranges by name"),
        ({"push": True}, ConfigError, "push: must be a robot.Push, and is True"),
        ({"rewards": [(1.0, terms.alive)]}, ConfigError, "rewards: must be terms by name"),
        ({"start": robot.Start(joints="0.1")}, ConfigError, "start: joints='0.1' must be a number"),
        ({"varies": [robot.Vary("body_mass", "0.8", 1.2)]}, ConfigError, "body_mass: low='0.8' must be a number"),
        (
            {"varies": [robot.Vary("body_mass", 0.8, 1.2, along=["body_inertia"])]},
            ConfigError,
            "along=.* must hold pairs of a field and a column",
        ),
        ({"rewards": {"up": ("1.0", terms.alive)}}, ConfigError, "the reward up: must be a weight and a term"),
        ({"push": robot.Push(seconds=5.0), "model": quadruped.MODEL}, ConfigError, "push: seconds=5.0 must be a range"),
        ({"step_seconds": "0.02"}, ConfigError, "step_seconds='0.02': must be a number"),
        (
            {"observations": {"a": robot.Observe(terms.action, history=2.5)}},
            ConfigError,
            "history=2.5 must be a whole",
        ),
        (
            {"observations": {"a": robot.Observe(terms.action, noise=np.nan)}},
            ConfigError,
            "noise=nan: must be a finite",
        ),
        ({"varies": robot.Vary("body_mass", 1, 2)}, ConfigError, "varies: must be a list of robot.Vary"),
        ({"ground": robot.Ground()}, EnvError, "ground: needs a model whose first joint is free"),
        ({"varies": [robot.Vary("key_qpos", 1, 2)]}, EnvError, "key_qpos: has no effect on an episode"),
        ({"varies": [robot.Vary("body_mas", 1, 2)]}, EnvError, "body_mas: MjModel has no such field. Did you mean"),
        ({"varies": [robot.Vary("body_mass", 1, 2, names="pol")]}, EnvError, "no name fits 'pol'. Did you mean pole"),
        ({"varies": [robot.Vary("body_mass", 2, 1)]}, ConfigError, "the wrong way round"),
        ({"varies": [robot.Vary("body_mass", 1, 2, how="times")]}, ConfigError, "how=times"),
        (
            {"varies": [robot.Vary("body_mass", 1, 2, how="add", along=[("body_inertia", None)])]},
            ConfigError,
            "along=.* needs how=scale",
        ),
        ({"varies": [robot.Vary("body_mass", 1, 2, along=[("dof_damping", None)])]}, EnvError, "has other rows than"),
        ({"varies": [robot.Vary("body_mass", 1, 2, along=[("body_inertia", 3)])]}, EnvError, "and so no column 3"),
        ({"varies": [robot.Vary("njnt", 1, 2)]}, EnvError, "njnt: is int64 .*only arrays of real numbers"),
        ({"start": robot.Start(keyframe="standing")}, EnvError, "key standing: .*none of this name"),
        ({"actions": robot.Actions(about="lean")}, EnvError, "key lean: .*Did you mean leaning"),
        ({"actions": robot.Actions(scale=[1.0, 2.0])}, ConfigError, r"scale has the shape \(2,\), and the model has 1"),
        ({"actions": robot.Actions(delay=-1)}, ConfigError, "delay=-1 must lie between 0 and"),
        ({"command": robot.Command({})}, ConfigError, "command: needs at least one range"),
        ({"command": robot.Command({"x": (1, 0)})}, ConfigError, "the command x: the range 1 to 0"),
        ({"push": robot.Push()}, EnvError, "push: needs a model whose first joint is free"),
        ({"start": robot.Start(turn=1.0)}, EnvError, "start.turn: needs a model whose first joint is free"),
        ({"observations": {"g": terms.gravity}}, EnvError, "needs a model whose first joint is free"),
        ({"observations": {"a": robot.Observe(terms.action, history=0)}}, ConfigError, "history=0 must be at least 1"),
        ({"varies": [robot.Vary("opt.timestep", 1, 2)]}, EnvError, "only arrays of real numbers can vary"),
        ({"varies": [robot.Vary("geom_friction", 1, 2, column=3)]}, EnvError, "and so no column 3"),
        ({"varies": [robot.Vary("opt.gravity", 1, 2, names="x")]}, EnvError, "its rows have no names"),
        ({"model": CART.replace('<motor name="push" joint="slide" gear="20"/>', "")}, EnvError, "has no actuators"),
        ({"mark": 3}, ConfigError, "mark: must be a term, a function, and is 3"),
        ({"mark": terms.joint_positions}, EnvError, r"the mark has the shape \(2, 2\) for 2 .* must have \(2, 3\)"),
        ({"rewards": {}}, ConfigError, "needs at least one observation and one reward"),
        ({"observations": {}}, ConfigError, "needs at least one observation and one reward"),
        ({"rewards": {"up": terms.alive}}, ConfigError, "the reward up: must be a weight and a term, such as"),
        ({"ends": {"low": lambda w: w.qpos[:, 0]}}, EnvError, "the end low is float64, and must be true or false"),
        ({"command": None, "metrics": {}}, EnvError, "the observation command has no numbers"),
        ({"metrics": {"odd": terms.joint_positions}}, EnvError, r"the metric odd has the shape \(2, 2\)"),
        ({"step_seconds": 0.025}, ConfigError, "step_seconds=0.025: must be a multiple of the model's timestep, 0.01"),
    ],
)
def test_what_is_wrong_in_a_declaration_is_named(changes, error, text):
    with pytest.raises(error) as caught:
        RobotVector(cart(**changes), 2).reset([0, 1], [0, 1])
    assert re.search(text, str(caught.value)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"ground": robot.Ground(kinds=("stair",))}, ConfigError, "ground=stair: unknown. Did you mean stairs"),
        ({"ground": robot.Ground(levels=6.0)}, ConfigError, "ground: levels=6.0 must be a whole number"),
        ({"ground": robot.Ground(kinds="stairs")}, ConfigError, r"ground: kinds='stairs' must be a list, such as"),
        ({"ground": robot.Ground(levels=0)}, ConfigError, "ground: levels=0 must be a whole number above 0"),
        ({"ground": robot.Ground(levels=2.5)}, ConfigError, "ground: levels=2.5 must be a whole number"),
        ({"ground": robot.Ground(cell=0)}, ConfigError, "cell=0 above 0"),
        ({"ground": robot.Ground(side=1.1)}, ConfigError, "side=1.1 must be above 1.2 m, the flat middle"),
        ({"push": robot.Push(seconds=(0.001, 5.0))}, ConfigError, "push: .* must be at least step_seconds=0.02"),
        (
            {"ground": robot.Ground(), "model": mujoco.MjModel.from_xml_path(str(quadruped.MODEL))},
            EnvError,
            "to an MjModel",
        ),
    ],
)
def test_a_ground_that_cannot_be_made_is_named(changes, error, text):
    with pytest.raises(error, match=text):
        RobotVector(quadruped.task(**changes), 2)


def test_what_is_no_task_is_not_registered_and_a_task_is_not_printed():
    with pytest.raises(ConfigError, match=r"Odd-v1: needs a robot.Task, and this is a int"):
        robot.register("Odd-v1", 5)
    assert "mujoco" not in repr(cart()) and len(repr(cart())) < 100


def test_a_term_that_is_not_a_number_is_named():
    task = cart(rewards={"odd": (1.0, lambda w: np.where(w.time > 0.05, np.nan, 1.0))})
    vector = RobotVector(task, 2)
    vector.reset([0, 1], [0, 1])
    for _ in range(4):
        _, reward, terminated, _ = vector.step([0, 1], np.zeros((2, 1)))
    assert np.isnan(reward).all() and terminated.all() and vector.errors[1] == "the reward odd is nan"


@pytest.mark.parametrize("keys", [["es.population=8"], ["es.segment=10", "credit.simulations=6", "credit.batch=30"]])
@pytest.mark.slow
def test_a_declared_robot_trains_to_the_same_bits_with_any_workers(train, keys):
    keys = ["env=es_rl/Quadruped-v0", "env_kwargs.max_episode_steps=100", "mlp.hidden=[8]", *keys]
    keys += ["generations=2", "eval.episodes=1", "eval.every=0"]
    runs = [train(*keys, f"workers={n}", run=f"run{n}") for n in (0, 2)]
    assert model_hash(runs[0]) == model_hash(runs[1])
    assert comparable(runs[0]) == comparable(runs[1]) and "reward/follows" in comparable(runs[0])[0]


MEASURES = ("reward/upright", "reward/action", "ends/fallen", "metric/off")


def test_what_is_measured_of_an_episode_adds_up_to_its_return():
    env, single = envs.make("Cart-v0", 3), gymnasium.make("Cart-v0")
    env.reset([0, 1, 2], [7, 8, 9])
    single.reset(seed=8)
    assert env.measures == single.unwrapped.measures == MEASURES
    total, steps, off, over = 0.0, 0, 0.0, False
    while not over:
        action = np.array([0.3 * np.sin(0.1 * steps)], np.float32)
        _obs, reward, terminated, truncated, info = single.step(action)
        env.step([0, 1], np.stack([-action, action]))
        total, steps, over = total + reward, steps + 1, terminated or truncated
        off += abs(single.unwrapped._simulations._fields["qpos"][0, 0] - info["command/place"])
    sums = env.measured([1])[0]
    assert np.array_equal(sums, single.unwrapped.measured([0])[0])
    assert np.isclose(sums[:2].sum() * single.unwrapped.dt, total)
    assert sums[2] == terminated and np.isclose(sums[3], off)
    assert (env.measured([0, 2])[1] == 0).all() and (env.measured([0]) != 0).any()
    env.reset([1], [3])
    assert (env.measured([1]) == 0).all()


@pytest.mark.parametrize("keys", [["es.population=8"], ["es.segment=10", "credit.simulations=6", "credit.batch=30"]])
def test_terms_have_curves(train, keys, capsys):
    run = train("env=Cart-v0", "generations=3", "eval.every=1", "eval.episodes=3", *keys)
    last = metrics(run)[-1]
    for name in MEASURES:
        assert last[name] is None or np.isfinite(last[name])
    whole = last["eval/length_mean"] * 0.02 * (last["eval/reward/upright"] + last["eval/reward/action"])
    if "es.segment=10" in keys:  # of each step in the segments, across episodes too
        for line in metrics(run):
            paid = 10 * 0.02 * (line["reward/upright"] + line["reward/action"])
            assert np.isclose(paid, line["fitness/mean"])
    assert np.isclose(whole, last["eval/return_mean"]) and 0 <= last["eval/ends/fallen"] <= 1
    capsys.readouterr()
    assert evaluate(["run=run", "env=Cart-v0", "episodes=3"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert np.isclose(
        told["length_mean"] * 0.02 * (told["reward/upright"] + told["reward/action"]), told["return_mean"]
    )


def test_what_was_measured_goes_on_where_a_simulation_was_saved():
    here, there = (envs.make("Cart-v0", 2) for _ in range(2))
    here.reset([0, 1], [1, 2])
    action = np.ones((1, 1), np.float32)
    for _ in range(5):
        here.step([1], action)
    there.restore([0], here.save([1]))
    for env, i in ((here, 1), (there, 0)):
        env.step([i], action)
    assert np.array_equal(here.measured([1]), there.measured([0])) and here.measured([1])[0, 0] > 0
    with pytest.raises(ValueError, match="rows of 5 numbers"):
        there.restore([0], np.zeros((1, 5)))


def test_a_term_that_is_not_a_number_ends_the_training_with_its_name():
    robot.register("Odd-v0", cart(rewards={"odd": (1.0, lambda w: np.where(w.time > 0.05, np.nan, 1.0))}))
    for keys in (["es.segment=10", "credit.simulations=4"], ["es.population=4"]):
        code, text = refusal(training, "env=Odd-v0", "workers=0", "generations=2", *keys)
        assert code in (3, 5) and "the reward odd is nan" in text, text
    del gymnasium.registry["Odd-v0"]


def test_an_observation_that_is_not_a_number_is_named():
    vector = RobotVector(cart(observations={"odd": lambda w: np.where(w.time > 0.01, np.nan, 0.0)}), 1)
    vector.reset([0], [0])
    vector.step([0], [[0.0]])
    assert vector.errors == {0: "the observation odd is not finite"}


def test_no_file_names_a_function_that_is_run(tmp_path):
    (tmp_path / "evil.py").write_text("def f():\n    open('ran', 'w')\n")
    keys = ["env=es_rl/Quadruped-v0", "env_kwargs.task=evil:f", "workers=0", "generations=1"]
    for backend in ("auto", "gymnasium"):
        code, text = refusal(training, *keys, f"backend={backend}")
        assert code == 3 and "Leave" in text and not (tmp_path / "ran").exists(), text


def test_an_episode_may_be_longer_than_its_declared_seconds_and_endless():
    task = quadruped.task(seconds=0.1, push=robot.Push(seconds=(0.08, 0.08), speed=1.0), varies=())
    long = RobotVector(task, 1, limit=12)
    long.reset([0], [0])
    ends = [bool(long.step([0], np.zeros((1, 12)))[3][0]) for _ in range(12)]
    assert ends == [False] * 11 + [True] and np.abs(long._fields["qvel"]).max() < 10
    robot.register("Short-v0", task)
    for endless in (True, False):
        vector = envs.make_vector("Short-v0", 1, "auto", {"max_episode_steps": -1}, endless=endless)
        vector.reset([0], [0])
        assert not any(vector.step([0], np.zeros((1, 12)))[3][0] for _ in range(20))
    del gymnasium.registry["Short-v0"]


@pytest.mark.parametrize("name", ["Cart-v0", "Hopper-v4"])
def test_none_of_the_simulations_can_be_saved_too(name):
    vector = envs.make(name, 2)
    obs = vector.reset([0, 1], [0, 1])
    width = vector.save([0]).shape[1]
    assert vector.save([]).shape == (0, width)
    vector.restore([], np.zeros((0, width)))
    assert obs.shape[0] == 2


@pytest.mark.slow
def test_the_example_trains(train, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    keys = ["env=balancer:Balancer-v0", "es.segment=64", "workers=0", "eval.every=0"]
    found = metrics(train(*keys, "generations=14", "eval.episodes=4"))
    assert found[-1]["fitness/mean"] > found[0]["fitness/mean"] + 0.3 and found[-1]["members/failed"] == 0


def test_a_module_of_ones_own_is_trained(train, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from es_rl.envs import robot\nfrom es_rl.envs.worlds import quadruped\nrobot.register('Mine-v0', quadruped.task())\n"
    )
    train("env=mine:Mine-v0", "env_kwargs.max_episode_steps=50", "es.population=4", "workers=1", "generations=1")
    code, text = refusal(training, "env=mine:Other-v0", "workers=0")
    assert code == 3 and "no such environment" in text


def test_a_robot_is_steered_until_its_episode_ends():
    steered, free = envs.make("Cart-v0", 3), envs.make("Cart-v0", 3)
    for vector in (steered, free):
        vector.reset(range(3), range(3))
    steered.steer(1, {"place": 0.25})
    actions = np.zeros((3, 1))
    for _ in range(60):  # beyond the next draws of a command
        seen, expected = steered.step(range(3), actions)[0], free.step(range(3), actions)[0]
        assert np.array_equal(seen[[0, 2]], expected[[0, 2]]) and seen[1, -1] == 0.25
    assert steered.command(1) == {"place": 0.25}
    steered.reset([1], [1])
    free.reset([1], [1])
    assert steered.command(1) == free.command(1) != {"place": 0.25}
    with pytest.raises(ConfigError, match=r"command=plaice: unknown. Did you mean place"):
        steered.steer(1, {"plaice": 0.0})
    with pytest.raises(ConfigError, match="command=forward: unknown"):
        RobotVector(cart(command=None, metrics={}, observations={"a": terms.action}), 1).steer(0, {"forward": 1.0})


def test_a_robot_is_pushed_once():
    pushed, free = (envs.make("es_rl/Quadruped-v0", 2, randomise=False) for _ in range(2))
    for vector in (pushed, free):
        vector.reset([0, 1], [0, 1])
    pushed.push(1, np.array([0.5, -0.25]))
    data = [mujoco.MjData(pushed.model) for _ in range(2)]
    for vector, found in zip((pushed, free), data, strict=True):
        vector.data(1, found)
    np.testing.assert_allclose((data[0].qvel - data[1].qvel)[:3], [0.5, -0.25, 0.0])
    seen, expected = (vector.step([0, 1], np.zeros((2, 12)))[0] for vector in (pushed, free))
    assert np.array_equal(seen[0], expected[0]) and not np.array_equal(seen[1], expected[1])


def test_vectors_are_turned_as_mujoco_turns_them():
    rng = np.random.default_rng(0)
    quaternions, vectors = rng.normal(size=(20, 4)), rng.normal(size=(20, 3))
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    found = rotate_back(quaternions, vectors)
    for quaternion, vector, turned in zip(quaternions, vectors, found, strict=True):
        there = np.zeros(3)
        mujoco.mju_rotVecQuat(there, turned, quaternion)
        np.testing.assert_allclose(there, vector, atol=1e-12)

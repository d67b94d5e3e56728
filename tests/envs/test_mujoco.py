"""The fast backend against Gymnasium's own environments: equal to the last bit."""

import inspect
import re
import warnings
from importlib.metadata import version
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from conftest import kill_workers, model_hash, soak
from gymnasium.envs.registration import load_env_creator

from es_rl import envs
from es_rl.envs.mujoco_tasks import TASKS
from es_rl.errors import EnvError, TrainingError

warnings.simplefilter("ignore")
STEPS = 300  # long enough for time limits and falls
FEW = 60
SIZES = {1: FEW, 7: STEPS}  # number of simulations: steps
MANY = 32  # simulations; making that many of Gymnasium takes longer than their steps
CUSTOM = """
<mujoco model="two legs less"><option timestep="0.01"/>
  <worldbody><geom type="plane" size="40 40 1"/><light pos="0 0 9"/>
    <body name="torso" pos="0 0 0.75"><freejoint/><geom type="sphere" size="0.25"/>
      <body pos="0.2 0 0"><joint name="hip" axis="0 0 1" range="-30 30" limited="true" armature="1" damping="1"/>
        <geom type="capsule" fromto="0 0 0 0.4 0 -0.3" size="0.08"/></body>
    </body></worldbody>
  <actuator><motor joint="hip" gear="150" ctrlrange="-1 1" ctrllimited="true"/></actuator>
</mujoco>
"""
OTHERS = [
    ("Ant-v4", {"use_contact_forces": True, "contact_cost_weight": 0.1}),
    ("Ant-v4", {"exclude_current_positions_from_observation": False, "terminate_when_unhealthy": False}),
    ("Ant-v4", {"xml_file": "./ant.xml", "healthy_z_range": (0.1, 3.0)}),
    ("Ant-v5", {"include_cfrc_ext_in_observation": False, "contact_force_range": (-0.5, 2.0), "main_body": "torso"}),
    ("Ant-v5", {"xml_file": "./robot.xml", "healthy_z_range": (0.1, 3.0), "frame_skip": 3, "forward_reward_weight": 2}),
    ("HalfCheetah-v4", {"exclude_current_positions_from_observation": False, "ctrl_cost_weight": 0.7}),
    ("HalfCheetah-v5", {"frame_skip": 2, "reset_noise_scale": 0.4, "forward_reward_weight": 3}),
    ("Hopper-v4", {"terminate_when_unhealthy": False, "exclude_current_positions_from_observation": False}),
    ("Hopper-v5", {"terminate_when_unhealthy": False, "healthy_state_range": (-2.0, 2.0), "healthy_reward": 3}),
    ("Humanoid-v4", {"terminate_when_unhealthy": False, "exclude_current_positions_from_observation": False}),
    ("Humanoid-v5", {"contact_cost_weight": 1e-3, "contact_cost_range": (0.5, 2.0), "healthy_z_range": (0.5, 2.5)}),
    ("Humanoid-v5", {"include_cinert_in_observation": False, "include_cvel_in_observation": False}),
    ("Humanoid-v5", {"include_qfrc_actuator_in_observation": False, "include_cfrc_ext_in_observation": False}),
    ("HumanoidStandup-v5", {"impact_cost_weight": 1e-3, "impact_cost_range": (0.1, 1.0), "uph_cost_weight": 2}),
    ("InvertedDoublePendulum-v5", {"healthy_reward": 3.5, "reset_noise_scale": 0.3}),
    ("InvertedPendulum-v5", {"frame_skip": 4, "reset_noise_scale": 0.05}),
    ("Pusher-v5", {"reward_near_weight": 0.3, "reward_dist_weight": 2.5, "reward_control_weight": 0.7}),
    ("Reacher-v5", {"reward_dist_weight": 0.3, "reward_control_weight": 2, "max_episode_steps": 9}),
    ("Swimmer-v4", {"exclude_current_positions_from_observation": False}),
    ("Swimmer-v5", {"frame_skip": 7, "ctrl_cost_weight": 0.3}),
    ("Walker2d-v4", {"terminate_when_unhealthy": False, "healthy_angle_range": (-0.1, 0.1)}),
    ("Walker2d-v5", {"healthy_z_range": (1.0, 1.3), "exclude_current_positions_from_observation": False}),
]


def compare(id, kwargs, n, steps=STEPS, first=None):
    """Any subset is stepped, with actions inside and outside of their range, and episodes are started again.

    Of observations the `first` numbers.
    """
    fast, slow = envs.make(id, n, "batch", obs_first=first, **kwargs), envs.make(id, n, "gymnasium", **kwargs)
    space = gymnasium.make(id, **kwargs).action_space
    rng = np.random.default_rng(n)
    assert np.array_equal(fast.reset(range(n), range(n)), slow.reset(range(n), range(n))[:, :first])
    ended = 0
    for step in range(steps):
        ids = rng.choice(n, rng.integers(1, n + 1), replace=False)
        scale = 1.5 if step % 5 == 0 else 1.0
        actions = (scale * rng.uniform(space.low, space.high, (len(ids), *space.shape))).astype(np.float32)
        ours, (seen, *others) = fast.step(ids, actions), slow.step(ids, actions)
        theirs = seen[:, :first], *others
        for name, mine, his in zip(("observation", "reward", "terminated", "truncated"), ours, theirs, strict=True):
            assert mine.dtype == his.dtype and mine.tobytes() == his.tobytes(), f"{name} in step {step}"
        for i in ids[theirs[2] | theirs[3]]:
            ended += 1
            assert np.array_equal(fast.reset([i], [step]), slow.reset([i], [step])[:, :first])
    assert fast.errors == slow.errors == {}
    return ended


@pytest.mark.parametrize("id", TASKS)
@pytest.mark.slow
def test_every_task_is_gymnasiums_to_the_last_bit(id):
    for n, steps in SIZES.items():
        compare(id, {}, n, steps)


@pytest.mark.parametrize("id", ["Hopper-v4", *soak(*(id for id in TASKS if id != "Hopper-v4"))])
@pytest.mark.slow
def test_many_simulations_are_gymnasiums_to_the_last_bit(id):
    compare(id, {}, MANY, FEW // 2)


@pytest.mark.parametrize("id", TASKS)
def test_the_first_numbers_of_an_observation_are_the_same_without_the_others(id):
    """Where they end matters for Humanoid-v4 only: forces of contacts, its last 84 numbers, are left uncomputed."""
    for first in (1, 44, 45, 46, 292, 293, 376, 1000) if id == "Humanoid-v4" else (3, 45):
        compare(id, {}, 3, steps=40, first=first)


def test_any_backend_can_leave_numbers_out():
    for backend in ("batch", "gymnasium"):
        vector = envs.make("Hopper-v4", 2, backend, obs_first=4)
        assert vector.reset([0, 1], [5, 6]).shape == (2, 4)
        assert vector.step([1], np.zeros((1, 3), np.float32))[0].shape == (1, 4)
        vector.close()


@pytest.mark.parametrize(("id", "kwargs"), OTHERS, ids=lambda v: v if isinstance(v, str) else ",".join(v))
@pytest.mark.slow
def test_arguments_of_the_constructor_count(id, kwargs, tmp_path):
    (tmp_path / "robot.xml").write_text(CUSTOM)
    theirs = Path(gymnasium.__file__).parent / "envs/mujoco/assets/ant.xml"
    (tmp_path / "ant.xml").write_text(theirs.read_text().replace('gear="150"', 'gear="77"'))
    compare(id, kwargs, 5, steps=FEW)


def arguments(id):
    """Of the constructor of Gymnasium's class."""
    return inspect.signature(load_env_creator(gymnasium.spec(id).entry_point)).parameters


def with_argument(name):
    return [id for id in TASKS if name in arguments(id)]


def write_model(id, pattern, replacement):
    """Gymnasium's own model, changed; the argument that names it."""
    theirs = Path(gymnasium.__file__).parent / "envs/mujoco/assets" / arguments(id)["xml_file"].default
    Path("robot.xml").write_text(re.sub(pattern, replacement, theirs.read_text()))
    return {"xml_file": "./robot.xml"}


@pytest.mark.parametrize("id", with_argument("xml_file"))
@pytest.mark.slow
def test_a_model_of_ones_own_counts(id, tmp_path):
    """Gymnasium's, in weaker gravity."""
    model = write_model(id, "<worldbody>", '<option gravity="0 0 -2"/><worldbody>')
    compare(id, model, 5, steps=FEW)


@pytest.mark.parametrize("id", with_argument("exclude_current_positions_from_observation"))
def test_positions_can_be_seen(id):
    compare(id, {"exclude_current_positions_from_observation": False}, 3, steps=FEW)


def test_a_model_whose_observations_are_not_of_the_space_is_refused(tmp_path):
    """Ant-v4's space is that of the ant, whatever the model."""
    (tmp_path / "robot.xml").write_text(CUSTOM)
    with pytest.raises(EnvError, match=r"observations have the shape \(13,\), but its space \(27,\)"):
        envs.probe("Ant-v4", {"xml_file": "./robot.xml"}, 0)


def test_every_task_is_covered_with_arguments_where_its_class_has_any():
    without = {"HumanoidStandup-v4", "InvertedDoublePendulum-v4", "InvertedPendulum-v4", "Reacher-v4"}
    assert set(TASKS) - {id for id, _ in OTHERS} == without


def test_time_limits_and_falls_happen_in_the_comparison():
    assert compare("Reacher-v5", {}, 3) > 5
    assert compare("Hopper-v5", {}, 3) > 5


@pytest.mark.parametrize("id", TASKS)
def test_a_saved_simulation_goes_on_elsewhere_to_the_same_bits(id):
    n, rng = 6, np.random.default_rng(0)
    first, other = envs.make(id, n), envs.make(id, n + 3)
    shape = first.reset(range(n), range(n)).shape
    actions = rng.uniform(-1, 1, (40, n, envs.probe(id, {}, 0).action_space.shape[0]))
    for action in actions[:20]:
        first.step(range(n), action)
    first.step([4, 1], actions[20][:2])  # so that places are not in order
    ids = np.array([7, 0, 3, 8, 2, 5])
    other.reset(range(n + 3), range(9, 18))
    other.step(ids, actions[0])
    other.restore(ids, first.save(range(n)))
    assert shape[0] == n and np.array_equal(other.save(ids), first.save(range(n)))
    for action in actions[21:]:
        for one, two in zip(first.step(range(n), action), other.step(ids, action), strict=True):
            np.testing.assert_array_equal(one, two)


def test_the_fast_backend_is_chosen_by_itself_and_can_be_refused():
    assert envs.choose_backend("Humanoid-v4") == "batch"
    assert envs.choose_backend("Humanoid-v4", "gymnasium") == "gymnasium"
    assert envs.choose_backend("CartPole-v1") == envs.choose_backend("hostile:Good-v0") == "gymnasium"
    with pytest.raises(EnvError, match=r"CartPole-v1 has no fast environment; these have: Ant-v4, Ant-v5") as caught:
        envs.choose_backend("CartPole-v1", "batch")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("found", ["3.16.0", "3.8.1", "4.0.0", "3.17.0", "4.0.1"])
def test_a_mujoco_that_cannot_serve_is_told_of(monkeypatch, found):
    monkeypatch.setattr(envs, "version", lambda package: found)
    if found == "4.0.0":
        for backend in ("auto", "batch", "gymnasium"):
            with pytest.raises(EnvError, match=r"4.0.0 computes wrong accelerations. Install another: pip") as caught:
                envs.choose_backend("Ant-v4", backend)
            assert caught.value.exit_code == 3
    elif found in ("3.16.0", "3.8.1"):
        with pytest.raises(EnvError, match=r"^backend=batch: needs a newer mujoco than"):
            envs.choose_backend("Ant-v4", "batch")
        with pytest.warns(UserWarning, match="has no mujoco.batch"):
            assert envs.choose_backend("Ant-v4") == "gymnasium"
    else:
        assert envs.choose_backend("Ant-v4") == "batch"
    assert envs.choose_backend("CartPole-v1") == "gymnasium"
    assert version("mujoco") != "4.0.0"


def test_a_bad_model_is_named_with_mujocos_own_words(tmp_path):
    (tmp_path / "bad.xml").write_text("<mujoco><worldbody><geom type='ball'/></worldbody></mujoco>")
    with pytest.raises(
        EnvError, match=r"env_kwargs.xml_file=./none.xml: cannot be made: OSError: File ./none.xml does not"
    ):
        envs.probe("Ant-v5", {"xml_file": "./none.xml"}, 0)
    with pytest.raises(
        EnvError, match=r"env_kwargs.xml_file=./bad.xml: cannot be made: ValueError: .*invalid keyword: 'ball'"
    ):
        envs.probe("Ant-v5", {"xml_file": "./bad.xml"}, 0)


@pytest.mark.parametrize("backend", ["batch", "gymnasium"])
@pytest.mark.parametrize(("id", "first"), [("HalfCheetah-v4", None), ("Humanoid-v4", None), ("Humanoid-v4", 45)])
def test_a_diverged_simulation_ends_as_failed_and_the_others_run_on(id, first, backend):
    """Its controls are no numbers: MuJoCo would go on from the model's defaults."""
    vector = envs.make(id, 3, backend, obs_first=first)
    vector.reset(range(3), range(3))
    actions = np.zeros((3, 17 if id == "Humanoid-v4" else 6), np.float32)
    _, calm, terminated, _ = vector.step(range(3), actions)
    assert np.isfinite(calm).all() and not terminated.any()
    actions[1] = np.nan
    _, reward, terminated, _ = vector.step(range(3), actions)
    assert np.isfinite(reward).tolist() == [True, False, True] and terminated.tolist() == [False, True, False]
    vector.reset([1], [5])
    _, reward, terminated, _ = vector.step(range(3), np.zeros_like(actions))
    assert np.isfinite(reward).all() and not terminated.any()


def explosive(id):
    """The robot with motors that MuJoCo cannot compute."""
    return write_model(id, r'gear="[^"]*"', 'gear="1e12"')


@pytest.mark.parametrize(("id", "actions"), [("Ant-v5", 8), ("HalfCheetah-v5", 6)])
@pytest.mark.parametrize("backend", ["batch", "gymnasium"])
def test_a_teleport_is_never_rewarded(id, actions, backend, tmp_path):
    """Gymnasium's classes would pay for the jump back to the start. One of the tasks needs forces of contacts."""
    vector = envs.make(id, 2, backend, **explosive(id))
    vector.reset([0, 1], [0, 1])
    for _ in range(50):
        _, reward, terminated, _ = vector.step([0, 1], np.stack([np.ones(actions), np.zeros(actions)]).astype("f"))
        if terminated[0]:
            break
        assert abs(reward[0]) < 1e3
    assert np.isnan(reward[0]) and np.isfinite(reward[1]) and terminated.tolist() == [True, False]


@pytest.mark.parametrize("id", ["HalfCheetah-v5", "Ant-v5"])
def test_each_divergence_is_noticed_wherever_the_simulation_is(id, tmp_path):
    """A divergence sets MuJoCo's counter to one, whatever it was: the second one in a place looks like the first."""
    vector = envs.make(id, 2, **explosive(id))
    actions = np.ones((2, *vector._template.action_space.shape), np.float32)

    def until_it_breaks(i):
        for _ in range(50):
            _, reward, terminated, _ = vector.step([i], actions[:1])
            if terminated[0]:
                return reward[0]
        return 0.0

    vector.reset([0, 1], [0, 1])
    rows = vector.save([1])
    assert np.isnan(until_it_breaks(0))
    assert np.isnan(until_it_breaks(1))  # in the first place now
    vector.reset([0], [2])
    assert np.isnan(until_it_breaks(0))  # an episode later
    vector.restore([0], rows)
    assert np.isfinite(vector.step([0], 0 * actions[:1])[1]).all() and np.isnan(until_it_breaks(0))


def test_members_that_diverge_have_failed(train, tmp_path):
    keys = [f"env_kwargs.{name}={value}" for name, value in explosive("HalfCheetah-v5").items()]
    with pytest.raises(TrainingError, match=r"\d of 8 members failed"):
        train("env=HalfCheetah-v5", *keys, "es.population=8", "es.top=4", "generations=1", "eval.every=0")


@pytest.mark.soak
def test_theta_is_the_same_while_workers_are_killed(train, start, tmp_path):
    keys = ["env=Hopper-v4", "policy=mlp", "es.population=32", "es.top=16", "generations=12", "video.every=-1"]
    quiet = train(*keys, "eval.every=0", run="quiet")
    process = start(*keys, "eval.every=0", "workers=2", "run=killed")
    kills = kill_workers(process, tmp_path / "killed", workers=1, pauses=(0.3, 1.0), most=2)
    assert process.wait() == 0 and kills >= 1
    assert model_hash(tmp_path / "killed") == model_hash(quiet)


@pytest.mark.parametrize("key", ["env=Humanoid-v4", *soak("env=Hopper-v4", "env=Humanoid-v4 obs_first=null")])
@pytest.mark.slow
def test_theta_is_the_same_for_any_number_of_workers_and_either_backend(train, key):
    """Hopper and what Humanoid's preset sees need no forces of contacts, the whole of Humanoid does."""
    keys = f"{key} es.population=8 chunk=4 generations=3 policy=linear es.sigma=0.1".split()
    runs = [train(*keys, f"workers={n}", run=f"run{n}") for n in (0, 1, 2, 3)]
    runs.append(train(*keys, "backend=gymnasium", run="slow"))
    assert len({model_hash(run) for run in runs}) == 1

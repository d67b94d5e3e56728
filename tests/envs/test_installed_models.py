"""Examples whose models are in other packages: skipped where these are not installed."""

import importlib.util
import os
import sys
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
from conftest import metrics, refusal

from es_rl import envs
from es_rl.envs.robot import terms
from es_rl.envs.robot.vector import RobotVector
from es_rl.rl.presets import preset
from es_rl.train import main as training

SUITE = {
    "CheetahRun": ("cheetah", "run"), "QuadrupedWalk": ("quadruped", "walk"), "QuadrupedRun": ("quadruped", "run"),
    "HumanoidWalk": ("humanoid", "walk"), "HumanoidRun": ("humanoid", "run"),
}  # fmt: skip
IDS = {"mjlab": ["go1:Go1-v0"], "dm_control": [f"dm_suite:suite/{name}-v0" for name in SUITE]}


@pytest.fixture(autouse=True)
def examples(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))


def need(package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")


@pytest.fixture
def dm_control(monkeypatch):
    need("dm_control")
    if "dm_control" not in sys.modules and "MUJOCO_GL" not in os.environ:
        monkeypatch.setenv("MUJOCO_GL", "disable")  # it asks for a renderer when it is imported
    return pytest.importorskip("dm_control.suite")


@pytest.mark.parametrize(("package", "name"), [(package, name) for package, names in IDS.items() for name in names])
def test_one_of_many_is_the_gymnasium_environment_to_the_last_bit(package, name):
    need(package)
    many = envs.make(name, 3)
    assert isinstance(many, RobotVector)
    single, rng = gymnasium.make(name), np.random.default_rng(0)
    assert np.array_equal(many.reset(range(3), [4, 5, 6])[1], single.reset(seed=5)[0])
    for _ in range(60):
        actions = rng.uniform(-1, 1, (3, *single.action_space.shape)).astype(np.float32)
        found, one = many.step(range(3), actions), single.step(actions[1])
        assert np.array_equal(found[0][1], one[0]) and all(found[k][1] == one[k] for k in (1, 2, 3))


@pytest.mark.parametrize(
    ("package", "module", "name"), [("mjlab", "go1", "Go1-v0"), ("dm_control", "dm_suite", "suite/CheetahRun-v0")]
)
def test_a_missing_package_is_named_with_the_remedy(package, module, name, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda x, *more: None if x == package else find(x, *more))
    monkeypatch.delitem(sys.modules, module, raising=False)
    code, text = refusal(training, f"env={module}:{name}", "workers=0", "generations=1")
    assert code == 3 and f"pip install --no-deps {package}" in text and "Traceback" not in text


def test_go1_stands_and_is_trained_with_the_settings_of_the_quadruped(train):
    need("mjlab")
    env = envs.make("go1:Go1-v0", 1, randomise=False)
    env.reset([0], [0])
    for _ in range(100):
        assert not env.step([0], np.zeros((1, 12)))[2][0]
    model = env.model
    assert 12 < model.body_mass.sum() < 14 and model.nu == 12 and 0.23 < env._fields["qpos"][0, 2] < 0.28
    touching = {mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_GEOM, i) for i in np.flatnonzero(model.geom_conaffinity)}
    assert touching == {"floor", *(f"{leg}_foot_collision" for leg in ("FR", "FL", "RR", "RL"))}
    assert preset("go1:Go1-v0", {"es.segment": 24}) == preset("es_rl/Quadruped-v0")
    small = ["credit.simulations=8", "credit.batch=48", "workers=0", "generations=2", "eval.episodes=1"]
    found = metrics(train("env=go1:Go1-v0", "es.segment=24", *small))[-1]
    assert found["env_steps"] == 2 * 24 * 8 and found["members/failed"] == 0


@pytest.mark.parametrize("name", SUITE)
def test_observations_and_rewards_are_those_of_dm_control(name, dm_control):
    theirs = dm_control.load(*SUITE[name], task_kwargs={"random": 3})
    theirs.reset()
    ours = envs.make(f"dm_suite:suite/{name}-v0", 2)
    ours.reset([0, 1], [0, 1])
    model, rows = theirs.physics.model.ptr, ours.save([0, 1])
    state = np.zeros(mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION))
    mujoco.mj_getState(model, theirs.physics.data.ptr, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    rows[1, : len(state)] = state
    ours.restore([0, 1], rows)
    low, high = model.actuator_ctrlrange.T
    rng, largest = np.random.default_rng(0), 0.0
    for _ in range(200):
        action = rng.uniform(-1, 1, model.nu)
        expected = theirs.step((low + high) / 2 + (high - low) / 2 * action)
        obs, reward, terminated, _ = ours.step([0, 1], np.stack([-action, action]))
        flat = np.concatenate([np.ravel(value) for value in expected.observation.values()])
        np.testing.assert_allclose(obs[1], flat, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(reward[1], expected.reward, rtol=1e-9, atol=1e-9)
        assert not terminated.any()
        largest = max(largest, expected.reward)
    assert largest > 0.001 and round(theirs._step_limit) == ours._limit


@pytest.mark.parametrize("name", ["CheetahRun", "QuadrupedWalk", "HumanoidWalk"])
def test_episodes_begin_as_those_of_dm_control(name, dm_control):
    """Compare the means and standard deviations of qpos, which must agree within the error of a hundred starts."""
    count = 100
    theirs = dm_control.load(*SUITE[name], task_kwargs={"random": 0})
    drawn = np.array([(theirs.reset(), theirs.physics.data.qpos.copy())[1] for _ in range(count)])
    ours = envs.make(f"dm_suite:suite/{name}-v0", count)
    ours.reset(range(count), range(count))
    found = ours._fields["qpos"]
    spread = np.maximum(drawn.std(axis=0), 1e-3)
    assert (np.abs(found.mean(axis=0) - drawn.mean(axis=0)) < 0.7 * spread).all()
    assert (found.std(axis=0) < 1.5 * spread).all() and (found.std(axis=0) >= 0.6 * drawn.std(axis=0)).all()


def test_tolerance_is_that_of_dm_control(dm_control):
    from dm_control.utils import rewards

    value = np.random.default_rng(0).uniform(-8, 8, (7, 5))
    for low, high in ((1.0, np.inf), (-0.5, 0.5), (0.0, 0.0), (-np.inf, 2.0)):
        for shape, least in (("gaussian", 0.1), ("linear", 0.0), ("linear", 0.4), ("quadratic", 0.2)):
            for margin in (0.0, 0.7, 6.0):
                found = terms.tolerance(value, low, high, margin=margin, at_margin=least, shape=shape)
                expected = rewards.tolerance(value, (low, high), margin, shape, least)
                np.testing.assert_allclose(found, expected, atol=1e-12)

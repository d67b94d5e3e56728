"""The environments' seam: the general backend equals Gymnasium; what cannot be used is refused."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from es_rl import envs
from es_rl.envs.gymnasium_backend import describe
from es_rl.envs.mujoco_tasks import TASKS
from es_rl.envs.spaces import flatten, from_json, size, to_json
from es_rl.envs.toys.point_mass import ID, SOLVED, STEPS
from es_rl.errors import ConfigError, EnvError

warnings.simplefilter("ignore", DeprecationWarning)
IDS = [ID, "CartPole-v1", "Pendulum-v1", "HalfCheetah-v4", "Hopper-v5"]


@pytest.mark.parametrize(
    ("id", "backend"), [(i, b) for i in IDS for b in ("gymnasium", "batch") if b != "batch" or i in TASKS]
)
def test_a_vector_of_simulations_equals_gymnasium_to_the_bit(id, backend):
    """Any subset is stepped, in any order; finished simulations are left out and started again."""
    n, rng = 3, np.random.default_rng(0)
    vector, singles = envs.make(id, n, backend=backend), [gymnasium.make(id) for _ in range(n)]
    space = singles[0].action_space
    space.seed(0)
    obs = vector.reset(range(n), seeds=[10, 11, 12])
    expected = [env.reset(seed=10 + i)[0] for i, env in enumerate(singles)]
    assert np.array_equal(obs, np.stack([flatten(singles[0].observation_space, e) for e in expected]))
    for step in range(60):
        ids = rng.permutation(n)[: rng.integers(1, n + 1)]
        actions = np.stack([space.sample() for _ in ids])
        obs, reward, terminated, truncated = vector.step(ids, actions)
        for row, i in enumerate(ids):
            action = actions[row] if space.shape else int(actions[row])
            e_obs, e_reward, e_terminated, e_truncated, _ = singles[i].step(action)
            assert np.array_equal(obs[row], e_obs)
            assert (reward[row], terminated[row], truncated[row]) == (e_reward, e_terminated, e_truncated)
            if e_terminated or e_truncated:
                again = vector.reset([i], seeds=[step])
                assert np.array_equal(again[0], singles[i].reset(seed=step)[0])
    again = vector.reset([2, 0, 1], seeds=[70, 71, 72])  # several at once, wherever they stand by now
    for row, i in enumerate([2, 0, 1]):
        assert np.array_equal(again[row], singles[i].reset(seed=70 + row)[0])
    assert vector.errors == {}
    vector.close()


def test_keyword_arguments_reach_the_environment():
    vector = envs.make("HalfCheetah-v4", 1, exclude_current_positions_from_observation=False)
    assert vector.reset([0], [0]).shape == (1, 18)
    limited = envs.make("CartPole-v1", 1, max_episode_steps=3)
    limited.reset([0], [0])
    assert [bool(limited.step([0], np.array([i % 2]))[3][0]) for i in range(3)] == [False, False, True]


def test_an_environment_without_a_time_limit_gets_one():
    from es_rl.envs.gymnasium_backend import DEFAULT_TIME_LIMIT, make_one

    gymnasium.register("Endless-v0", entry_point="hostile:Good")
    assert make_one("Endless-v0", {}).spec.max_episode_steps == DEFAULT_TIME_LIMIT


def test_a_simulation_that_breaks_is_data_and_the_others_run_on():
    vector = envs.make("hostile:OftenRaises-v0", 2)
    vector.reset([0, 1], [8, 9])
    for _ in range(50):
        vector.step([0, 1], np.zeros((2, 3)))
    obs, reward, terminated, _ = vector.step([0, 1], np.zeros((2, 3)))
    assert np.isnan(obs[0]).all() and np.isnan(reward[0]) and terminated.tolist() == [True, False]
    assert np.isfinite(obs[1]).all() and np.isfinite(reward[1])
    assert vector.errors == {0: "its step raised ValueError: joint 7 exploded"}
    assert np.isfinite(vector.reset([0], [9])).all() and len(vector.errors) == 1


def test_point_mass_is_a_gymnasium_environment_whose_threshold_means_something():
    from gymnasium.utils.env_checker import check_env

    env = gymnasium.make(ID, render_mode="rgb_array")
    check_env(env.unwrapped, skip_render_check=False)
    assert env.spec.max_episode_steps == STEPS and env.spec.reward_threshold == SOLVED

    def mean_return(controller):
        returns = []
        for seed in range(30):
            obs, total, done = env.reset(seed=seed)[0], 0.0, False
            while not done:
                obs, reward, _, done, _ = env.step(np.asarray(controller(obs), np.float32))
                total += reward
            returns.append(total)
        return np.mean(returns)

    nothing, damped = (
        mean_return(lambda o: np.zeros(2)),
        mean_return(lambda o: np.clip(-6 * o[:2] - 2.5 * o[2:], -1, 1)),
    )
    assert nothing < 6 * SOLVED < SOLVED < damped


def test_point_mass_shows_the_point_where_it_is():
    env = gymnasium.make(ID, render_mode="rgb_array")
    env.reset(seed=0)
    blue = (env.render() == (40, 80, 200)).all(axis=2)
    rows, columns = np.nonzero(blue)
    x, y = columns.mean() / 239 * 3 - 1.5, 1.5 - rows.mean() / 239 * 3
    assert np.allclose([x, y], env.unwrapped._position, atol=0.03)


@pytest.mark.parametrize(
    ("id", "text"),
    [
        ("Humanoi-v4", "env=Humanoi-v4: no such environment. Did you mean Humanoid-v4"),
        ("Humanoid-v9", "no such environment. Did you mean Humanoid-v4 or Humanoid-v5?"),
        ("nowhere_to_be_found:Thing-v0", "the module nowhere_to_be_found cannot be imported: ModuleNotFoundError"),
        ("hostile:Godo-v0", "env=hostile:Godo-v0: no such environment. Did you mean Good-v0"),
        ("", "no such environment"),
        ("bad name!", "no such environment"),
    ],
)
def test_unknown_ids_are_refused_with_the_nearest_names(id, text):
    with pytest.raises(EnvError) as caught:
        envs.check_id(id)
    assert text in str(caught.value) and caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("id", "kwargs", "text"),
    [
        ("Humanoid-v2", {}, "Versions that can be made: Humanoid-v4, Humanoid-v5"),
        ("Hopper-v4", {"legs": 3}, "env=Hopper-v4 env_kwargs.legs=3: cannot be made: TypeError"),
        ("Hopper-v4", {"legs": 3}, "keyword argument 'legs'. Its arguments are forward_reward_weight, "),
        ("hostile:ConstructorRaises-v0", {}, "cannot be made: RuntimeError: no license for this robot"),
        (
            "hostile:WrongShape-v0",
            {},
            "its reset raised ValueError: the observation has shape (2,), but its space has (3,)",
        ),
        ("hostile:TextObservation-v0", {}, "observation space Text"),
        ("hostile:GraphObservation-v0", {}, "observation space Graph"),
        ("hostile:TextAction-v0", {}, "the action space Text"),
    ],
)
def test_what_cannot_be_used_is_refused(id, kwargs, text):
    with pytest.raises(EnvError) as caught:
        envs.probe(id, kwargs, 0)
    assert text in str(caught.value)


def test_a_probe_tells_spaces_and_warnings():
    spec = envs.probe("HalfCheetah-v4", {}, 0)
    assert size(spec.observation_space) == 17 and spec.action_space.shape == (6,)
    assert sum("HalfCheetah-v4 is out of date" in text for text in spec.warnings) == 1
    assert "\x1b" not in "".join(spec.warnings)
    assert not Path("MUJOCO_LOG.TXT").exists()


OWN = """
import sys, warnings
import numpy as np
from es_rl import envs
assert "mujoco" not in sys.modules
env = envs.make("diverging:Diverging-v0", 1)
env.reset([0], [0])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    reward = env.step([0], np.ones((1, 1)))[1]
assert np.isnan(reward[0]) and any("MuJoCo: " in str(w.message) for w in caught)
"""


def test_environments_of_ones_own_write_no_log_of_mujoco_into_the_current_directory(tmp_path):
    subprocess.run([sys.executable, "-c", OWN], check=True, cwd=tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unknown_backend_is_refused():
    with pytest.raises(ConfigError, match="backend=gym: unknown"):
        envs.make(ID, 1, backend="gym")


SPACES = [
    spaces.Box(-1, 2, (2, 3), np.float32),
    spaces.Box(-np.inf, np.array([1.0, np.inf]), (2,), np.float64),
    spaces.Box(0, 255, (4, 4, 3), np.uint8),
    spaces.Discrete(4, start=-2),
    spaces.MultiDiscrete([3, 2]),
    spaces.MultiBinary(5),
    spaces.Discrete(3, dtype=np.int32),
    spaces.MultiDiscrete([3, 2], np.int32),
    spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64),
    spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 1, (1,))]),
    spaces.Dict(
        {"z": spaces.Box(-1, 1, (3,)), "a": spaces.Discrete(3), "m": spaces.Dict({"b": spaces.MultiBinary(2)})}
    ),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_spaces_survive_json_and_flatten_as_gymnasium_flattens(space):
    back = from_json(json.loads(json.dumps(to_json(space), allow_nan=False)))
    assert back == space
    space.seed(0)
    sample = space.sample()
    row = flatten(space, sample)
    assert row.shape == (size(space),)
    assert np.array_equal(row, np.asarray(spaces.flatten(space, sample), np.float64).reshape(-1))
    assert np.array_equal(row, flatten(back, sample))


def test_an_observation_with_a_part_too_short_is_refused():
    space = spaces.Dict({"a": spaces.Box(-1, 1, (3,)), "b": spaces.Discrete(2)})
    with pytest.raises(ValueError, match=r"the observation's part a has shape \(2,\), but its space has \(3,\)"):
        flatten(space, {"a": np.zeros(2), "b": 0})


def test_rewards_that_are_arrays_of_one_number_are_numbers():
    vectors = [envs.make(f"hostile:{name}-v0", 2) for name in ("Good", "OneNumber")]
    for vector in vectors:
        vector.reset([0, 1], [3, 4])
    steps = [vector.step([0, 1], np.zeros((2, 3), np.float32)) for vector in vectors]
    assert not vectors[1].errors
    for one, other in zip(*steps, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("backend", ["batch", "gymnasium"])
def test_a_limit_that_is_switched_off_is_told_and_episodes_end_all_the_same(backend):
    spec = envs.probe("HalfCheetah-v4", {"max_episode_steps": -1}, 0, backend)
    assert "HalfCheetah-v4 has no time limit: its episodes are cut off after 10,000 steps" in spec.warnings[-1]
    assert not any("time limit" in said for said in envs.probe("HalfCheetah-v4", {}, 0, backend).warnings)
    env = envs.make_vector("HalfCheetah-v4", 1, backend, {"max_episode_steps": -1})
    env.reset([0], [0])
    ends = [bool(env.step([0], np.zeros((1, 6), np.float32))[3][0]) for _ in range(10_000)]
    assert not any(ends[:-1]) and ends[-1]


def test_without_a_limit_other_libraries_get_endless_episodes_as_from_gymnasium():
    env = envs.make_vec("HalfCheetah-v4", 1, max_episode_steps=-1)
    env.reset(seed=0)
    assert not any(env.step(np.zeros((1, 6), np.float32))[3][0] for _ in range(10_010))


def test_an_error_that_says_nothing_is_told_by_its_line_of_code():
    def strict(value):
        if value < 0:
            raise ValueError

    with pytest.raises(ValueError) as caught:
        strict(-1)
    assert describe(caught.value).startswith("ValueError: raise ValueError (test_envs.py, line ")


@pytest.mark.parametrize(
    ("id", "hint"),
    [
        ("ALE/Pong-v5", "give env=ale_py:ALE/Pong-v5"),
        ("dm_control/cartpole-swingup-v0", "give env=shimmy:dm_control/cartpole-swingup-v0"),
        ("FetchReach-v4", "give env=gymnasium_robotics:FetchReach-v4"),
        ("MiniGrid-Empty-5x5-v0", "give env=minigrid:MiniGrid-Empty-5x5-v0"),
        ("Humanoi-v4", "Did you mean Humanoid-v4"),
    ],
)
def test_an_id_of_another_package_gets_a_hint(id, hint, monkeypatch):
    monkeypatch.setattr("es_rl.envs.registry.tasks.has", lambda id: False)  # as if EnvPool were not installed
    with pytest.raises(EnvError, match="no such environment") as caught:
        envs.check_id(id)
    assert hint in str(caught.value)

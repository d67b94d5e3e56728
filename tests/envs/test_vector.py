"""Fast environments for other libraries: equal to theirs to the bit, over restarts, and pleasant to use."""

import copy
import warnings
from dataclasses import replace

import climber  # registers Climb-v0
import gymnasium
import numpy as np
import pytest
from conftest import soak
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecNormalize

from es_rl import envs
from es_rl.envs import robot
from es_rl.envs.mujoco_tasks import TASKS
from es_rl.envs.robot import terms
from es_rl.envs.worlds import quadruped
from es_rl.errors import ConfigError, EnvError

warnings.simplefilter("ignore")
MODES = list(AutoresetMode)
NEWEST = [id for id in TASKS if id.endswith("-v5")]  # of each robot
SEEN = {"gravity": terms.gravity}
CLIMB = climber.TASK
STEPS = 500  # that each of two simulations takes
SHORT = {"max_episode_steps": 70}  # so that those restart too that never fall


def actions(space, n, steps, seed=0):
    """Actions within the space, which change slowly: some robots stand for a while, some fall."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(scale=0.3, size=(steps, n, *space.shape)), axis=0)
    middle, half = (space.high + space.low) / 2, (space.high - space.low) / 2
    return (middle + half * np.sin(walk)).astype(space.dtype)


def same(ours, theirs):
    assert np.array_equal(ours[0], theirs[0]) and ours[0].dtype == theirs[0].dtype
    for mine, other in zip(ours[1:4], theirs[1:4], strict=True):
        assert np.array_equal(mine, other) and mine.dtype == other.dtype


@pytest.mark.parametrize("id", TASKS)
@pytest.mark.slow
def test_a_vector_environment_equals_gymnasiums_over_restarts(id):
    """All tasks, a thousand steps, the modes of restarting in turn."""
    n, mode = 2, MODES[list(TASKS).index(id) % 2]
    ours = envs.make_vec(id, n, autoreset_mode=mode, **SHORT)
    theirs = SyncVectorEnv([lambda: gymnasium.make(id, **SHORT)] * n, autoreset_mode=mode)
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    assert ours.metadata["autoreset_mode"] == mode
    assert np.array_equal(ours.reset(seed=3)[0], theirs.reset(seed=3)[0])
    ends = 0
    for action in actions(ours.single_action_space, n, STEPS):
        mine, other = ours.step(action), theirs.step(action)
        same(mine, other)
        ends += (other[2] | other[3]).sum()
        assert ("final_obs" in mine[4]) == ("final_obs" in other[4])
        if "final_obs" in other[4]:
            assert np.array_equal(mine[4]["_final_obs"], other[4]["_final_obs"])
            for i in np.flatnonzero(other[4]["_final_obs"]):
                assert np.array_equal(mine[4]["final_obs"][i], other[4]["final_obs"][i])
    assert ends > STEPS / 75
    ours.close(), theirs.close()


@pytest.mark.parametrize("id", [*NEWEST, *soak(*(id for id in TASKS if id not in NEWEST))])
@pytest.mark.slow
def test_a_vecenv_equals_stable_baselines3s_over_restarts(id):
    n = 2
    ours, theirs = envs.sb3(id, n, **SHORT), make_vec_env(id, n, seed=5, env_kwargs=SHORT)
    assert isinstance(theirs, DummyVecEnv) and ours.observation_space == theirs.observation_space
    ours.seed(5)
    mine, other = ours.reset(), theirs.reset()
    assert np.array_equal(mine, other) and mine.dtype == other.dtype
    for action in actions(ours.action_space, n, STEPS, seed=1):
        mine, other = ours.step(action), theirs.step(action)
        for a, b in zip(mine[:3], other[:3], strict=True):
            assert np.array_equal(a, b) and a.dtype == b.dtype
        for told, known in zip(mine[3], other[3], strict=True):
            assert told["TimeLimit.truncated"] == known["TimeLimit.truncated"]
            assert ("episode" in told) == ("episode" in known)
            if "episode" in known:
                assert {**told["episode"], "t": 0} == {**known["episode"], "t": 0}
                assert np.array_equal(told["terminal_observation"], known["terminal_observation"])
    ours.close(), theirs.close()


@pytest.mark.parametrize("id", ["Hopper-v5", "Ant-v5"])
@pytest.mark.parametrize("make", [envs.make_vec, envs.sb3])
def test_threads_change_no_bit(make, id):
    """Ant-v5 needs forces of contacts, which are computed in another way."""
    one, three = (make(id, 7, threads=threads, **SHORT) for threads in (1, 3))
    for env in (one, three):
        env.seed(1) if make is envs.sb3 else env.reset(seed=1)
    space = one.action_space if make is envs.sb3 else one.single_action_space
    if make is envs.sb3:
        assert np.array_equal(one.reset(), three.reset())
    for action in actions(space, 7, 100):
        a, b = one.step(action), three.step(action)
        assert all(np.array_equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))


def test_disabled_restarts_are_the_callers():
    """As Gymnasium's, with the mask of those to reset; a step of one that is over is refused."""
    ours = envs.make_vec("Hopper-v4", 3, autoreset_mode="Disabled", **SHORT)
    theirs = SyncVectorEnv([lambda: gymnasium.make("Hopper-v4", **SHORT)] * 3, autoreset_mode="Disabled")
    assert np.array_equal(ours.reset(seed=[4, 8, 1])[0], theirs.reset(seed=[4, 8, 1])[0])
    for action in actions(ours.single_action_space, 3, 200):
        mine, other = ours.step(action), theirs.step(action)
        same(mine, other)
        over = other[2] | other[3]
        if over.any():
            with pytest.raises(ConfigError, match="have ended. Reset them with options="):
                ours.step(action)
            mine, other = (env.reset(options={"reset_mask": over.copy()})[0] for env in (ours, theirs))
            assert np.array_equal(mine, other)
    for mask in ([True] * 3, np.zeros(3, bool), np.ones(2, bool), np.ones(3)):
        with pytest.raises(ConfigError, match="reset_mask"):
            ours.reset(options={"reset_mask": mask})


def test_gymnasium_knows_the_fast_environments():
    env = gymnasium.make_vec("es_rl/HalfCheetah-v4", num_envs=5, threads=2, forward_reward_weight=2.0)
    assert type(env).__name__ == "FastVectorEnv" and env.num_envs == 5 and env.spec.id == "es_rl/HalfCheetah-v4"
    assert env.reset(seed=0)[0].shape == (5, 17)
    assert gymnasium.spec("es_rl/HalfCheetah-v4").to_json() and env.spec.to_json()
    single, gyms = (gymnasium.make(f"{prefix}HalfCheetah-v4") for prefix in ("es_rl/", ""))
    assert np.array_equal(single.reset(seed=1)[0], gyms.reset(seed=1)[0])
    wrapped = gymnasium.wrappers.vector.RecordEpisodeStatistics(gymnasium.make_vec("es_rl/Hopper-v5", num_envs=2))
    wrapped.reset(seed=0)
    told = [wrapped.step(a)[4] for a in actions(wrapped.single_action_space, 2, 300)]
    assert any("episode" in info for info in told)
    assert envs.choose_backend("es_rl/Ant-v4") == "batch"
    assert envs.make("es_rl/Ant-v4", 1).reset([0], [0]).shape == (1, 27)


def test_observations_are_the_callers_to_keep():
    env = envs.make_vec("Hopper-v4", 2)
    first, _ = env.reset(seed=0)
    kept = first.copy()
    later = [env.step(a)[0] for a in actions(env.single_action_space, 2, 5)]
    assert np.array_equal(first, kept) and not np.array_equal(later[0], later[1])
    later[-1][:] = 0
    assert np.abs(env.step(actions(env.single_action_space, 2, 1)[0])[0]).sum() > 0


def test_a_diverged_simulation_ends_with_finite_numbers_and_the_others_run_on():
    env = envs.make_vec("HalfCheetah-v4", 3, autoreset_mode="SameStep")
    env.reset(seed=0)
    poison = np.zeros((3, 6), np.float32)
    poison[1] = np.nan
    obs, reward, terminated, _, info = env.step(poison)
    assert terminated.tolist() == [False, True, False] and reward[1] == 0 and np.isfinite(obs).all()
    assert info["diverged"].tolist() == [False, True, False] and np.isfinite(info["final_obs"][1]).all()
    assert "diverged" not in env.step(np.zeros((3, 6), np.float32))[4]
    vec = envs.sb3("HalfCheetah-v4", 3)
    vec.reset()
    _, reward, done, infos = vec.step(poison)
    assert done.tolist() == [False, True, False] and np.isfinite(reward).all() and infos[1]["diverged"]


def test_ids_without_a_fast_environment_get_the_librarys_own():
    assert isinstance(envs.make_vec("CartPole-v1", 2), SyncVectorEnv)
    assert isinstance(envs.sb3("CartPole-v1", 2), DummyVecEnv)
    assert envs.sb3("CartPole-v1", 2).env_is_wrapped(Monitor) == [True, True]


@pytest.mark.parametrize("make", [envs.make_vec, envs.sb3])
def test_what_cannot_be_made_is_refused(make):
    with pytest.raises(EnvError, match="Did you mean HalfCheetah-v4"):
        make("HalfChetah-v4", 2)
    for id in ("Hopper-v4", "CartPole-v1"):
        for keys in ({"num_envs": 0}, {"num_envs": 2, "threads": 0}):
            with pytest.raises(ConfigError, match="must be at least 1"):
                make(id, **keys)
        with pytest.raises(EnvError, match="cannot be made: TypeError.*legs"):
            make(id, 2, legs=3)
    with pytest.raises(ConfigError, match="threads=2: only fast environments have threads, and CartPole-v1 is none"):
        make("CartPole-v1", 2, threads=2)


def test_steps_that_make_no_sense_are_refused():
    for n, env in ((1, envs.make_vec("Hopper-v4", 1)), (2, envs.make_vec("Hopper-v4", 2)), (2, envs.sb3("Ant-v5", 2))):
        numbers = 8 if env.action_space.shape[-1] == 8 else 3
        with pytest.raises(ConfigError, match="Call reset first"):
            env.step(np.zeros((n, numbers), np.float32))
        env.reset()
        for shape in ((numbers,), (1, numbers + 1), (n, 1), (n + 1, numbers)):
            with pytest.raises(ConfigError, match="one row for each simulation"):
                env.step(np.zeros(shape, np.float32))
        env.step(np.zeros((n, numbers)))  # float64 is taken as float32
        with pytest.raises(TypeError, match="neither copied nor pickled"):
            copy.deepcopy(env)
        env.close(), env.close()
        with pytest.raises(ConfigError, match="Call reset first"):
            env.step(np.zeros((n, numbers), np.float32))


def test_an_environment_that_breaks_is_no_data():
    env = envs.sb3("hostile:OftenRaises-v0", 1, obs_first=2)
    with pytest.raises(EnvError, match="simulation 0: its reset raised TypeError|cannot be made: TypeError"):
        env.reset()  # its class needs a seed at each reset


def test_a_robot_that_broke_once_works_again_after_a_reset_and_steps_after_an_end_do_not_count():
    rewards = {"odd": (1.0, lambda w: np.where(w.time > 0.05, np.nan, 1.0))}
    for name, more in (("Odd-v0", {}), ("Over-v0", {"ends": {"late": lambda w: w.time > 0.03}})):
        robot.register(
            name, replace(quadruped.task(), rewards=rewards, command=None, observations=SEEN, metrics={}, **more)
        )
    env = envs.make_vec("Odd-v0", 2)
    for _ in range(2):
        env.reset(seed=0)
        with pytest.raises(EnvError, match="simulation 0: the reward odd is nan"):
            for _ in range(5):
                env.step(np.zeros((2, 12), np.float32))
    env = envs.make_vec("Over-v0", 2)  # its episodes end in time
    env.reset(seed=0)
    for _ in range(12):
        env.step(np.zeros((2, 12), np.float32))


@pytest.mark.slow
def test_a_difficulty_holds_for_one_reset_as_in_the_libraries():
    ours, theirs = envs.make_vec("Climb-v0", 3), SyncVectorEnv([lambda: gymnasium.make("Climb-v0")] * 3)
    zeros = np.zeros((3, 12), np.float32)
    begun = [env.reset(seed=5, options={"difficulty": 0.0})[0] for env in (ours, theirs)]
    assert np.array_equal(*begun)
    for _ in range(70):  # two episodes of 0.6 seconds
        steps = [env.step(zeros)[:4] for env in (ours, theirs)]
        same(*steps)
    ours, theirs = envs.sb3("Climb-v0", 3), DummyVecEnv([lambda: Monitor(gymnasium.make("Climb-v0"))] * 3)
    for env in (ours, theirs):
        env.seed(5)
        env.set_options([{"difficulty": 0.0}, {}, {"difficulty": 0.5}])
    assert np.array_equal(ours.reset(), theirs.reset())
    for _ in range(40):
        assert np.array_equal(ours.step(zeros)[0], theirs.step(zeros)[0])
    assert np.array_equal(ours.reset(), theirs.reset())


def test_episodes_without_a_limit_are_possible():
    env = envs.make_vec("HalfCheetah-v4", 1, max_episode_steps=-1)
    env.reset(seed=0)
    assert not any(env.step(np.zeros((1, 6), np.float32))[3].any() for _ in range(1010))


def test_bad_seeds_and_modes_are_refused():
    with pytest.raises(ConfigError, match="autoreset_mode=next_step: unknown"):
        envs.make_vec("Hopper-v4", 3, autoreset_mode="next_step")
    with pytest.raises(ConfigError, match="2 seeds for 3 simulations"):
        envs.make_vec("Hopper-v4", 3).reset(seed=[1, 2])


def test_the_checks_and_the_tools_of_stable_baselines3_pass():
    env = envs.sb3("HalfCheetah-v4", 4, **SHORT)
    assert env.env_is_wrapped(Monitor) == [True] * 4 and env.env_is_wrapped(VecNormalize, indices=1) == [False]
    assert (
        env.metadata["render_fps"] == 20
        and env.get_attr("spec")[0].id == "HalfCheetah-v4"
        and env.seed(3) == [3, 4, 5, 6]
    )
    assert not env.has_attr("no_such_thing")
    for refused in (lambda: env.set_attr("gravity", 0), lambda: env.env_method("reset")):
        with pytest.raises(ConfigError, match="fast simulations have no "):
            refused()
    model = PPO(
        "MlpPolicy", VecNormalize(VecCheckNan(env, raise_exception=True)), n_steps=16, batch_size=32, device="cpu"
    )
    model.learn(512)
    assert len(model.ep_info_buffer) > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one is given where episodes are not monitored
        returns, lengths = evaluate_policy(
            model, envs.sb3("HalfCheetah-v5", 2, **SHORT), 3, return_episode_rewards=True
        )
    assert len(returns) == 3 and lengths == [70] * 3


def test_a_prefix_of_the_observation_is_a_space_of_its_own():
    whole, part = (envs.sb3("Humanoid-v4", 2, obs_first=first) for first in (None, 45))
    assert part.observation_space.shape == (45,)
    whole.seed(0), part.seed(0)
    assert np.array_equal(whole.reset()[:, :45], part.reset())
    with pytest.raises(ConfigError, match="obs_first=3: needs observations that are one row"):
        envs.sb3("FrozenLake-v1", 2, obs_first=3)


@pytest.mark.parametrize("make", [envs.make_vec, envs.sb3])
@pytest.mark.parametrize(
    "args", ['"Hopper-v5", 2, width=64, height=64', '"es_rl/Quadruped-v0", 2'], ids=["task", "robot"]
)
@pytest.mark.slow
def test_pictures_show_each_simulation(make, args, renderer, python):
    if not renderer:
        pytest.skip("this machine draws nothing")
    code = f"""
import numpy as np
from es_rl import envs
env = envs.{make.__name__}({args}, render_mode="rgb_array")
env.reset()
pictures = env.render() if "{make.__name__}" == "make_vec" else env.get_images()
assert len(pictures) == 2 and pictures[0].shape in ((64, 64, 3), (480, 480, 3)) and pictures[0].std() > 5
size = env.action_space.shape[-1]
for _ in range(20):
    env.step(np.stack([np.zeros(size), np.ones(size)]).astype(np.float32))
pictures = env.render() if "{make.__name__}" == "make_vec" else env.get_images()
assert not np.array_equal(*pictures)
"""
    done = python("-c", code, env={"MUJOCO_GL": renderer})
    assert done.returncode == 0, done.stderr

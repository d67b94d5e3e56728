"""The tasks, the trainings and the page of "when evolution is the right tool"."""

import json
import shutil
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from es_rl import envs
from es_rl.errors import EnvError

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
sys.path.append(str(BENCHMARKS))

import when_cases  # noqa: E402
import when_page  # noqa: E402
import when_tasks  # noqa: E402

LATE, NOISY, SHORT = when_tasks.VARIANTS


def play(vector, ids, steps, *, seeds=None, seed=0):
    """Rewards (steps, n) and observations of random actions, the same for each simulation id."""
    space = gymnasium.make("HalfCheetah-v4").action_space
    actions = {i: np.random.default_rng([seed, i]).uniform(-1, 1, (steps, *space.shape)) for i in ids}
    obs = [vector.reset(ids, [100 + i for i in ids] if seeds is None else seeds)]
    rewards, over = [], []
    for t in range(steps):
        o, r, terminated, truncated = vector.step(ids, np.stack([actions[i][t] for i in ids]))
        obs.append(o)
        rewards.append(r)
        over.append(terminated | truncated)
    return np.array(obs), np.array(rewards), np.array(over)


def variant(name, n, **kwargs):
    return envs.make_vector(name, n, "variants", kwargs)


def plain(n, **kwargs):
    return envs.make_vector("HalfCheetah-v4", n, "batch", kwargs)


def test_the_sum_is_paid_at_the_end_and_begins_anew():
    vector = variant(LATE, 3, max_episode_steps=20)
    vector.reset([0, 1, 2], [5, 6, 7])
    vector.step([0, 1, 2], np.ones((3, 6)))  # an episode that is given up
    obs, late, over = play(vector, [0, 1, 2], 20)
    expected_obs, rewards, expected_over = play(plain(3, max_episode_steps=20), [0, 1, 2], 20)
    assert np.array_equal(obs, expected_obs) and np.array_equal(over, expected_over) and over[-1].all()
    assert not late[:-1].any() and np.allclose(late[-1], rewards.sum(axis=0), rtol=1e-12, atol=0)
    assert np.array_equal(play(vector, [0, 1, 2], 20)[1], late)


def test_noise_is_as_large_as_stated_and_a_function_of_seed_step_and_what_happens():
    n, steps = 8, 300
    obs, noisy, _ = play(variant(NOISY, n), range(n), steps)
    expected_obs, rewards, _ = play(plain(n), range(n), steps)
    noise = (noisy - rewards) / when_tasks.REWARD_NOISE
    assert np.array_equal(obs, expected_obs)
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    assert abs(np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]) < 0.06
    alone = variant(NOISY, n)
    assert np.array_equal(play(alone, [3], steps)[1][:, 0], noisy[:, 3])  # whoever is stepped beside it
    assert not np.isclose(play(alone, [3], steps, seeds=[1])[1][:, 0], noisy[:, 3]).any()


def test_two_members_of_a_pair_hear_different_noise():
    pair = play(variant(NOISY, 2), [0, 1], 100, seeds=[4, 4])[1] - play(plain(2), [0, 1], 100, seeds=[4, 4])[1]
    assert abs(np.corrcoef(pair.T)[0, 1]) < 0.3


def test_steps_that_are_not_shorter_are_those_of_the_plain_task_to_the_bit():
    same = when_tasks.short_steps(2, {"max_episode_steps": 40}, None, finer=1)
    assert all(map(np.array_equal, play(same, [0, 1], 40), play(plain(2, max_episode_steps=40), [0, 1], 40)))


def test_short_steps_pay_for_the_same_distance_the_same_reward():
    fine = variant(SHORT, 1, exclude_current_positions_from_observation=False)
    obs, rewards, over = play(fine, [0], 4000)
    assert over[:, 0].tolist() == [False] * 3999 + [True]
    dt, speeds = 0.05 / 4, np.diff(obs[:, 0, 0])
    actions = np.random.default_rng([0, 0]).uniform(-1, 1, (4000, 6)).astype(np.float32)
    assert np.allclose(4 * rewards[:, 0], speeds / dt - 0.1 * np.square(actions).sum(axis=1), atol=1e-6)
    with when_tasks.finer_model(4) as path:
        env = gymnasium.make("HalfCheetah-v5", xml_file=str(path))
        assert (env.unwrapped.model.opt.timestep, env.unwrapped.dt) == (0.0025, dt)
        body = gymnasium.make("HalfCheetah-v4").unwrapped.model
        assert np.array_equal(env.unwrapped.model.body_mass, body.body_mass)
        assert np.array_equal(env.unwrapped.model.actuator_gear, body.actuator_gear)
    assert not path.exists()


@pytest.mark.parametrize("name", when_tasks.VARIANTS)
def test_a_variant_goes_on_where_it_was_saved(name):
    here, there = variant(name, 2, max_episode_steps=60), variant(name, 2, max_episode_steps=60)
    here.reset([0, 1], [3, 4])
    actions = np.random.default_rng(0).uniform(-1, 1, (60, 1, 6))
    for action in actions[:57]:
        here.step([1], action)
    there.restore([0], here.save([1]))
    for action in actions[57:]:
        for ours, theirs in zip(here.step([1], action), there.step([0], action), strict=True):
            assert np.array_equal(ours, theirs)
    assert ours[0]


def test_gymnasium_knows_the_spaces_of_a_variant_and_refuses_to_play_it():
    for name in when_tasks.VARIANTS:
        assert envs.probe(name, {}, 0, "variants").observation_space.shape == (17,)
        with pytest.raises(EnvError, match="backend=variants"):
            gymnasium.make(name).reset()
    with pytest.raises(EnvError, match="HalfCheetah-v4 is no variant"):
        envs.make_vector("HalfCheetah-v4", 1, "variants", {})


def test_the_opponent_trains_on_the_same_variants():
    pytest.importorskip("stable_baselines3")
    venv = envs.sb3(LATE, 2, backend="variants", max_episode_steps=5)
    venv.seed(3)
    venv.reset()
    steps = [venv.step(np.full((2, 6), 0.5)) for _ in range(10)]
    paid = [reward[0] != 0 for _, reward, _, _ in steps]
    assert paid == [False] * 4 + [True] + [False] * 4 + [True]
    assert steps[4][3][0]["episode"]["l"] == 5
    venv.close()
    noisy = envs.sb3(NOISY, 2, backend="variants")
    noisy.seed(3)
    noisy.reset()
    first = noisy.step(np.zeros((2, 6)))[1]
    assert len({*first.tolist()}) == 2 and np.abs(first).max() > 0.05
    noisy.close()


def test_a_trained_network_is_rounded_as_a_rounded_layer_computes():
    from when_training import rounded_state

    from es_rl.policies.rounding import RoundedLinear

    layer = RoundedLinear(9, 5, "ternary")
    state = {**layer.state_dict(), "log_std": torch.ones(5), "count": torch.ones(2, 2, dtype=torch.int64)}
    before = {name: value.clone() for name, value in state.items()}
    after = rounded_state(state, "ternary")
    assert all(torch.equal(state[name], before[name]) for name in state)
    assert all(torch.equal(after[name], before[name]) for name in ("bias", "log_std", "count"))
    x = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.nn.functional.linear(x, after["weight"], after["bias"]), layer(x))


def test_a_recurrent_opponent_keeps_a_memory_for_each_simulation():
    contrib = pytest.importorskip("sb3_contrib")
    from when_training import SB3Actor

    model = contrib.RecurrentPPO("MlpLstmPolicy", envs.sb3("es_rl/Recall-v0", 2), n_steps=8, device="cpu", seed=0)
    obs = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    actor = SB3Actor(model, None, 3)
    together = [actor(np.arange(3), obs[0]), actor(np.arange(3), obs[1]), actor(np.array([2, 0]), obs[2][[2, 0]])]
    for i, rows in ((0, (0, 0, 1)), (2, (2, 2, 0))):
        state, begins = None, np.ones(1, bool)
        for t, row in enumerate(rows):
            action, state = model.predict(obs[t, i : i + 1], state=state, episode_start=begins, deterministic=True)
            begins = np.zeros(1, bool)
            assert np.allclose(action[0], together[t][row], atol=1e-6)


# ---------------------------------------------------------------- the page


def result(case, name, seed, value, **more):
    about = {"date": "2026-01-01", "machine": {"processor": "CPU", "processors": 1}, "versions": {"mujoco": "3"}}
    return {"case": case, "name": name, "seed": seed, "return_mean": value, "minutes": 10.0, **about, **more}


def both(case, ours, theirs, name="ppo_fast", **more):
    return [result(case, "es_rl", i, v, **more) for i, v in enumerate(ours)] + [
        result(case, name, i, v, **more) for i, v in enumerate(theirs)
    ]


def test_ahead_are_those_whose_every_seed_is_above_every_other():
    results = both("plain", [1, 2, 3], [4, 5, 6]) + both("late", [7, 8, 9], [1, 2, 7.5]) + both("noise", [2], [1])
    results += both("short", [3, 2, 4], [1, 0, 1.5])
    assert [(row[3], when_page.ahead(row, results)) for row in when_page.rows(results)] == [
        ("plain", "PPO"), ("late", "neither"), ("short", "es_rl"), ("noise", "too few seeds"),
    ]  # fmt: skip
    text = when_page.advice(results)
    assert "**Take PPO** where it was ahead, 1 comparison: nothing changed." in text
    assert "**Take es_rl** where it was ahead, 1 comparison: 4 times as many, 4 times shorter steps." in text
    assert "Nothing is said of 1 comparison with fewer than 3 seeds" in text
    assert "the reward paid only at the end of an episode, es_rl 400% and PPO 40%" in text


def test_of_a_task_that_both_solve_the_faster_one_is_ahead():
    results = both("memory8", [0.95] * 3, [0.99] * 3, "recurrent_ppo")
    for r, seconds in zip(results, [10, 20, 30, 40, 50, 60], strict=True):
        r["cpu_seconds"] = seconds
    (row,) = when_page.rows(results)
    assert when_page.ahead(row, results) == "es_rl"
    assert "0.95 (0.95, 0.95, 0.95), after 0.3 min" in when_page.table(results)
    results[0]["return_mean"] = 0.2  # one that has not solved it
    assert when_page.ahead(when_page.rows(results)[0], results) == "PPO"


def test_rounded_rows_take_the_plain_networks():
    results = both("plain", [100, 110, 120], [200, 210, 220], int8=50, ternary=-5)
    results += [result("int8", "es_rl", i, 90 + i) for i in range(3)]
    rows = {row[0]: row[1:] for row in when_page.rows(results)}
    assert rows["int8 weights: es_rl trained with them"] == ([90, 91, 92], [50] * 3, "plain,int8")
    assert rows["ternary weights: both rounded after training"] == ([-5] * 3, [-5] * 3, "plain")
    assert "ternary weights: es_rl trained with them" not in rows
    assert "`python benchmarks/when.py run cases=[plain,int8]`" in when_page.table(results)
    assert "short of es_rl" in when_page.measured(results) and "plain of" not in when_page.measured(results)


def test_every_case_trains_what_it_names_and_keeps_the_preset():
    from es_rl.rl.config import parse_train
    from es_rl.rl.presets import preset

    for case in when_cases.ALL:
        config = parse_train([f"env={case.env}", f"backend={case.backend}", "workers=0", *case.keys])
        if not case.name.startswith("memory"):
            known = preset("HalfCheetah-v4", {"es.segment": 0} if case.name == "late" else {})
            assert (config.policy, config.mlp.hidden) == (known["policy"], known["mlp.hidden"])
            assert config.optim.lr == known["optim.lr"] and config.eval.every == 0
            assert config.es.segment == known.get("es.segment", 0) and (case.name == "late") == (not config.es.segment)
    assert parse_train(["env=A-v0", *when_cases.CASES["ternary"].keys]).linear.weights == "ternary"


# ---------------------------------------------------------------- commands


@pytest.fixture
def call(python):
    return lambda *argv: python(BENCHMARKS / "when.py", *argv, env={"OMP_NUM_THREADS": "1"})


def test_the_page_is_what_its_results_say(tmp_path, call):
    page, raw = tmp_path / "when.md", tmp_path / "when.json"
    shutil.copy(ROOT / "docs" / "when.md", page)
    shutil.copy(BENCHMARKS / "when.json", raw)
    assert call("show", "out=none", f"page={page}", f"raw={raw}").returncode == 0
    assert page.read_text() == (ROOT / "docs" / "when.md").read_text()
    assert raw.read_text() == (BENCHMARKS / "when.json").read_text()


@pytest.mark.soak
@pytest.mark.slow
def test_trainings_run_once_and_are_shown(tmp_path, call):
    pytest.importorskip("sb3_contrib")
    keys = ["run", "cases=[memory8]", "minutes=0.004", "seeds=1", "parallel=1", "out=runs"]
    first = call(*keys)
    assert first.returncode == 0, first.stderr + (tmp_path / "runs/memory8-es_rl-1/log.txt").read_text()
    assert first.stdout.count("done") == 2
    again = call(*keys)
    assert (again.returncode, again.stdout) == (0, "")
    page, raw = tmp_path / "when.md", tmp_path / "when.json"
    shutil.copy(ROOT / "docs" / "when.md", page)
    assert call("show", "out=runs", f"page={page}", f"raw={raw}").returncode == 0
    found = json.loads(raw.read_text())
    assert [(r["case"], r["name"], r["episodes"]) for r in found] == [
        ("memory8", "es_rl", 100), ("memory8", "recurrent_ppo", 100),
    ]  # fmt: skip
    assert all(r["env_steps"] > 0 and r["cpu_seconds"] >= 0.2 for r in found)
    assert "| memory over 8 steps | " in page.read_text() and "too few seeds" in page.read_text()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["walk"], "action=walk: unknown"),
        (["run", "cases=[pain]", "parallel=1"], "cases=pain: unknown. Did you mean plain?"),
        (["run", "minutes=0", "parallel=1"], "minutes=0.0: must be > 0"),
        (["run", "parallel=999"], "parallel=999: each training has a core of its own"),
        (["one", "case=ternary", "name=ppo_fast", "out=x"], "name=ppo_fast out=x: give es_rl, and a directory"),
    ],
)
def test_what_cannot_be_is_refused(argv, said, call):
    done = call(*argv)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
